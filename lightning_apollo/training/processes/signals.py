"""Stop signals, handled from the start of the process.

SIGUSR1  SLURM's notice that time is up (`sbatch --signal=USR1@180`): the job goes back into the queue
SIGTERM  from `kill`, scancel, torchrun or SLURM's own preemption
SIGINT   Ctrl-C, which a terminal sends to all processes of a run; a second one ends the process at once

Before training begins there is nothing to save: the process ends. While it trains a signal is noted, and
callbacks/preemption.py saves at the edge of the step. Nothing that takes time is imported here.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

EXIT_CODE = os.EX_TEMPFAIL  # 75, of a run that stopped before its end and is to be started again
INTERRUPTED = 128 + signal.SIGINT  # 130, of one that Ctrl-C has stopped
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # where several come, the last of these counts
# Tells a stage of a Ctrl-C that came to its parent. Most often it is one that came to the stage as well, so that the two are
# counted apart and the larger count holds.
FROM_PARENT = signal.SIGUSR2

_SCONTROL_SECONDS = 60.0
_STUCK_SECONDS = 3.0  # the main thread, which runs handlers, waits in C, most often for another rank
_UNWIND_SECONDS = 10.0  # for it to close what is open
_FIRST_RANK_SECONDS = 2.0  # by which the other ranks end later: launchers kill the first once one has left
_SAVING = b"\nCtrl-C: saves after this step and ends; press it again to end at once\n"


class Preempted(SystemExit):
    """End of a process whose run was asked to stop; `code` says that it is not finished."""


class Listener:
    """Handlers of SIGNALS for one process."""

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None  # what came while training
        self.may_requeue = True
        self.is_working = False  # and has something to close; until then it imports
        self._is_training = False
        self._handlers_before: dict[int, Any] = {}
        self._saving_said = threading.Lock()
        self._end_begun = threading.Lock()  # held for good by the thread that ends this process
        self._end_said = threading.Event()
        self._is_watched = False
        self._counts: Counter[int] = Counter()  # signals that came

    def start(self) -> None:
        """Listen, also to what came while a parent kept SIGNALS blocked; to be called by the main thread."""
        if not self._is_watched:
            self._is_watched = True
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            atexit.register(_ignore)
            os.register_at_fork(after_in_child=self._forget)
            threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        for number in (*SIGNALS, FROM_PARENT):
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, FROM_PARENT))

    def _forget(self) -> None:
        """Take a forked process off the pipe of its parent, which would count the fork's signals as its own."""
        signal.set_wakeup_fd(-1)
        for number in (*SIGNALS, FROM_PARENT):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)

    def begin_training(self) -> None:
        """From now on signals are noted."""
        self.noted = None
        self._counts.clear()
        self._saving_said = threading.Lock()
        self._is_training = True
        self._handlers_before = {number: signal.getsignal(number) for number in (*SIGNALS, FROM_PARENT)}
        self.start()

    def end_training(self) -> None:
        """Put back the handlers from before training."""
        self._is_training = False
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        came = _meant(number)
        if not self._is_training:
            if self._end(came):
                if not self.is_working:
                    os._exit(_exit_code(came))
                raise Preempted(_exit_code(came))
            return
        is_first = came == signal.SIGINT and self._saving_said.acquire(blocking=False)  # another may come between lines
        if is_first and own_rank() == 0:
            _write(_SAVING)
        self.noted = max(self.noted or came, came, key=SIGNALS.index)

    def _watch(self, reader: int) -> None:
        """Count Ctrl-C, and end the process where its main thread cannot."""
        while True:
            for number in os.read(reader, 64):
                if signal.getsignal(number) != self._handle:
                    continue  # after training, in a process that is not this run's alone
                self._counts[number] += 1
                if max(self._counts[signal.SIGINT], self._counts[FROM_PARENT]) > 1:
                    _end_at_once()
                if not self._is_training:
                    threading.Thread(target=self._end_where_stuck, args=(number,), daemon=True).start()

    def _end_where_stuck(self, number: int) -> None:
        time.sleep(_STUCK_SECONDS)
        if not self._is_training and signal.getsignal(number) == self._handle:
            came = _meant(number)
            if not self._end(came):  # the main thread does, and closes what is open
                self._end_said.wait()
                time.sleep(_UNWIND_SECONDS)
            os._exit(_exit_code(came))

    def _end(self, came: signal.Signals) -> bool:
        """Requeue the job and say the end, on rank 0; False where that is done already."""
        if not self._end_begun.acquire(blocking=False):
            return False
        if own_rank() > 0:
            time.sleep(_FIRST_RANK_SECONDS)
        else:
            _write(f"stopped by {came.name} with nothing to save: {after(came, self.may_requeue)}\n".encode())
        self._end_said.set()
        return True


LISTENER = Listener()  # handlers belong to a process, as this does


def _meant(number: int) -> signal.Signals:
    return signal.SIGINT if number == FROM_PARENT else signal.Signals(number)


def own_rank() -> int:
    """Rank of this process, as its launcher tells it in the environment; 0 without one.

    Lightning tells the processes that it starts LOCAL_RANK alone: of each node all but the first count as 1 or more here.
    """
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def after(came: signal.Signals, may_requeue: bool) -> str:
    """Requeue the SLURM job after SIGUSR1, and return what to do next."""
    job = _job_id() if came == signal.SIGUSR1 and may_requeue else None
    return "start it again with --resume" if job is None else _requeue(job)


def run_passing_signals_on(command: Sequence[str]) -> int:
    """Run a command that starts a Listener, hand on the signals that come here, and return its exit code.

    Where it was ended by a signal, 128 + the number, as a shell counts; where it ended well in spite of one, EXIT_CODE or
    INTERRUPTED: this process was asked to stop as well.
    """
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if process is not None:
            process.send_signal(FROM_PARENT if number == signal.SIGINT else number)

    handlers_before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        process = _start_deaf(command)
        code = process.wait()
    except BaseException:
        if process is not None:
            process.kill()
        raise
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
    if code < 0:
        return 128 - code
    return code if code or not came else INTERRUPTED if signal.SIGINT in came else EXIT_CODE


def _start_deaf(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process for which SIGNALS wait until it listens; those that come meanwhile wait here as well."""
    import subprocess

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, FROM_PARENT))
    try:
        return subprocess.Popen(command)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore() -> None:
    """Leave the exit code as it is where a signal comes while Python ends, which would put back the system's handlers."""
    for number in (*SIGNALS, FROM_PARENT):
        signal.signal(number, signal.SIG_IGN)


def _exit_code(came: signal.Signals) -> int:
    return INTERRUPTED if came == signal.SIGINT else EXIT_CODE


def _end_at_once() -> None:
    import multiprocessing

    for process in multiprocessing.active_children():
        process.kill()
    if sys.stdout.isatty():
        _write(b"\x1b[?25h")  # the cursor, which progress bars hide
    os._exit(INTERRUPTED)


def _write(line: bytes) -> None:
    """Write to standard output past its buffer, which the main thread may be writing to."""
    with suppress(OSError):  # nobody reads it: the run ends as it would
        os.write(1, line)


def _job_id() -> str | None:
    """This SLURM job, as scontrol calls it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def _requeue(job: str) -> str:
    """Put the job back into the queue, and return what came of it."""
    import subprocess

    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SCONTROL_SECONDS)
        return f"job {job} is requeued"
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    return f"job {job} could not be requeued ({reason}): start it again with --resume"
