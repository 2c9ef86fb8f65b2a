"""Fork server of loader and probe processes, with the signals and ends of its forks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

# Ask a run to stop, and often reach all its processes: torchrun sends SIGTERM to a rank's whole group, a terminal Ctrl-C. The
# training process answers at the edge of its step, and needs its loader until then.
_DEAF_TO = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started inside are born with the signals that ask a run to stop blocked, as are their forks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_fork_server() -> None:
    """Start the fork server of this process where none runs; deaf, it ends with this process or by SIGKILL."""
    with deaf():
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)  # again: Python 3.11 unblocks SIGINT and SIGTERM with it
        forkserver.ensure_running()


def how_it_ended(exit_code: int | None) -> str:
    """Name of the signal, or the exit code, with which a process has ended; None where it is not known."""
    if exit_code is None:
        return "cause unknown"
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
