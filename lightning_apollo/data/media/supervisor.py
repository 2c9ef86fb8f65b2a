"""Supervised reading in a child process. A decoder that hangs, crashes or eats memory costs its file and not the run.

Processes are started without multiprocessing, whose daemons, as loader workers are, may have no children. One that has
imported torch (seconds) is kept for each loader process; what decodes is forked from it (milliseconds).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_apollo.data.media.config import SupervisionConfig
from lightning_apollo.data.media.fork_server import deaf, how_it_ended
from lightning_apollo.data.media.reader import MediaReader
from lightning_apollo.data.media.worker import WorkerAnswer, receive_answer
from lightning_apollo.data.storage.own_stores import carried
from lightning_apollo.structures import Frames, MediaError, MediaInfo, Modality

_WATCH_SECONDS = 0.05  # how often a process at work is looked at
_END_SECONDS = 5.0  # how long a process that is killed may take to be gone
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Imports what this process can import; not by PYTHONPATH, from where a user's re.py would come before Python's own
_PROGRAM = """
import sys
socket, *sys.path = sys.argv[1:]
from lightning_apollo.data.media.worker import fork_on_request
fork_on_request(int(socket))
"""


class SupervisedReader:
    """Read as `inner` does, in a child process that is killed where a file passes the limits of `config`.

    Such a file is a MediaError, as is one that crashes the child; the next call gets a new one. The child starts with
    the first call and ends with the reader or its process; copies of the reader, pickled or forked, start their own.
    One thread at a time. Linux only.
    """

    def __init__(self, inner: MediaReader, config: SupervisionConfig) -> None:
        if sys.platform != "linux":
            raise ValueError("data.supervision needs Linux: set it to null")
        self.inner = inner
        self.config = config
        self._child: _Child | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SupervisedReader, (self.inner, self.config)

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        return self._ask(address, "probe", address, modality)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        return self._ask(info.path, "decode", info, timestamps.numpy(), size, background)

    def _ask(self, address: str, method: str, *arguments: object) -> Any:
        """Answer of the child; an error that it answers with is raised."""
        child, self._child = self._fit_child(), None
        answer = child.ask(address, method, arguments, self.config)
        self._child = child
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _fit_child(self) -> _Child:
        """The child of this process: the one there is, or a new one where it belongs to another, died, has grown, or
        works in a folder that this process has left.

        One that keeps half of what a file may take would make the next file pay for those before it.
        """
        child = self._child
        is_fit = child is not None and child.is_alive and child.folder == _working_folder()
        if child is not None and is_fit and child.grown_bytes() <= self.config.max_memory_bytes // 2:
            return child
        if child is not None:
            child.end()
        return _Child(self.inner, self.config.deadline_seconds)


class _Child:
    """A decoding process and the line to it. Dropped while idle, it ends by itself: the line is closed."""

    def __init__(self, reader: MediaReader, deadline_seconds: float) -> None:
        self.folder = _working_folder()
        first_message = pickle.dumps((reader, deadline_seconds, torch.get_num_threads(), self.folder, carried()))
        self.server = _ForkServer.of_this_process()
        self.connection, theirs = Pipe()
        with theirs:
            self.process_id = self.server.fork(theirs)
        try:
            self.connection.send_bytes(first_message)
            receive_answer(self.connection)  # it is ready: its start is not on a file's account
        except (EOFError, OSError):
            raise RuntimeError(f"the decoding process did not start ({self.end()}): see stderr") from None
        self.idle_bytes = 0
        self.idle_bytes = self.grown_bytes()

    @property
    def is_alive(self) -> bool:
        """True if it belongs to this process, not to one that this was forked from, and has not hung up."""
        return self.server.is_ours and not self.connection.poll()

    def grown_bytes(self) -> int:
        """Memory of its own, pages of files left out, above what it held when it had just started."""
        resident, of_files = Path(f"/proc/{self.process_id}/statm").read_text().split()[1:3]
        return (int(resident) - int(of_files)) * _PAGE_BYTES - self.idle_bytes

    def ask(self, address: str, method: str, arguments: tuple[object, ...], limits: SupervisionConfig) -> WorkerAnswer:
        """Its answer; MediaError where it passes a limit or crashes. After an error it has ended."""
        due = time.monotonic() + limits.deadline_seconds
        try:
            self.connection.send_bytes(pickle.dumps((method, *arguments)))
            while not self.connection.poll(_WATCH_SECONDS):
                if self.grown_bytes() > limits.max_memory_bytes:
                    reason = f"took more than {limits.max_memory_mb} MiB (data.supervision.max_memory_mb)"
                    raise MediaError(address, f"{method} {reason}")
                if time.monotonic() >= due:
                    reason = f"took longer than {limits.deadline_seconds:g} s (data.supervision.deadline_seconds)"
                    raise MediaError(address, f"{method} {reason}")
            return receive_answer(self.connection)
        except (EOFError, OSError):
            raise MediaError(address, f"{method} crashed ({self.end()})") from None
        except BaseException:  # an interrupt too: an answer that comes late must not be taken for the next one
            self.end()
            raise

    def end(self) -> str:
        """Name of the signal or exit code of its end; it is killed if it has not ended yet."""
        self.connection.close()
        return how_it_ended(self.server.end(self.process_id))


def _working_folder() -> str:
    """Base of relative paths; also where it was removed, which os.getcwd does not survive."""
    return os.readlink("/proc/self/cwd")


class _ForkServer:
    """The process that decoding processes are forked from: one for each process that reads, as long as it lives."""

    _current: ClassVar[_ForkServer | None] = None

    @classmethod
    def of_this_process(cls) -> _ForkServer:
        server = cls._current
        if server is None or not server.is_ours or server.process.poll() is not None:
            if server is not None:
                server.close()
            server = cls._current = cls()
        return server

    def __init__(self) -> None:
        self.owner_id = os.getpid()
        self.control, theirs = Pipe()
        with theirs, deaf():
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C on the terminal reaches the parent alone
            )
        self.close = weakref.finalize(self, _close, self.process, self.control)  # at exit, if not before

    @property
    def is_ours(self) -> bool:
        """True if it is open and belongs to this process, not to one that this was forked from."""
        return self.close.alive and self.owner_id == os.getpid()

    def fork(self, connection: Connection) -> int:
        """The id of a new process that serves the connection."""
        try:
            self.control.send(None)
            send_handle(self.control, connection.fileno(), self.process.pid)
            return self.control.recv()  # the first time it has to import torch before
        except (EOFError, OSError):
            self.close()
            raise RuntimeError("the server of decoding processes has ended: see stderr") from None
        except BaseException:  # an interrupt: an answer that comes late must not be taken for the next one
            self.close()
            raise

    def end(self, process_id: int) -> int | None:
        """The exit code of a process, which is killed if it still runs; None where that cannot be known."""
        if not self.is_ours:
            return None
        exit_code = None
        try:
            with suppress(EOFError, OSError):  # it has ended
                self.control.send(process_id)
                if self.control.poll(_END_SECONDS):
                    exit_code = self.control.recv()
        finally:
            if exit_code is None:  # that, or an interrupt, or it waits for a process that waits for a dead disk
                self.close()
        return exit_code


def _close(process: subprocess.Popen[bytes], control: Connection) -> None:
    """End the server. In a fork of its owner, which is not its parent, it closes the line and leaves it alone."""
    control.close()
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
