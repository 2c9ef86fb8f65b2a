"""The process that loader and probe processes are forked from."""

import signal
from multiprocessing import forkserver, resource_tracker

# Ask a run to stop, and often reach all its processes: torchrun sends SIGTERM to a rank's whole group. The training process
# answers at the edge of its step, and needs its loader until then.
_DEAF_TO = (signal.SIGTERM, signal.SIGUSR1)


def start_fork_server() -> None:
    """Starts the fork server of this process where none runs, with the signals that ask a run to stop blocked.

    What it forks inherits that, and ends with this process or by SIGKILL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)  # again: Python 3.11 unblocks SIGTERM with it
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
