"""One writer for each stage's folder.

output/STAGE.lock   made beside the folder by the process that writes it, which holds its lock (flock) and notes host and pid
output/STAGE.owner  in its place on file systems without locks: whoever makes that file holds the folder

Both go when the process ends. The system takes the lock from a process that is killed.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, TextIO

from lightning_apollo.errors import RecipeError
from lightning_apollo.files import try_lock, write_atomically

_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}  # what file systems without locks say
_RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # set by torchrun, srun and Lightning
_TRIES, _SECONDS_BETWEEN = 10, 0.05  # for the other process to have written what it is about to

_held: set[TextIO] = set()


class Owner(NamedTuple):
    """Process that writes into a folder."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """True for a process of this host that is gone; one of another host cannot be asked."""
        if self.host != socket.gethostname():
            return False
        if self.pid == os.getpid():  # which holds nothing: the process before it had the same number
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def is_first_rank() -> bool:
    """True in the only process of a run, or the first of many."""
    return not any(int(os.environ.get(name) or 0) for name in _RANKS)


@contextmanager
def sole_writer(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder against other processes, or raise RecipeError that names the one which writes into it.

    Of many ranks the first holds it for all. `say` is told where the file system has no locks.
    """
    if not is_first_rank():
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f"{folder.name}.lock")
    try:
        file = _locked_file(folder, path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        path.unlink(missing_ok=True)
        with _made_file(folder, folder.with_name(f"{folder.name}.owner"), say):
            yield
        return
    try:
        yield
    finally:
        _held.discard(file)
        if not file.closed:  # as it is in a process forked from this one
            path.unlink(missing_ok=True)
            file.close()


def _locked_file(folder: Path, path: Path) -> TextIO:
    """The file that lies at `path`, with its lock, and this process noted in it."""
    _close_in_forks()
    while True:
        file = path.open("a+")
        try:
            if not try_lock(file):
                raise RecipeError(f"{folder} is being written by {_read(path) or 'another process'}: {_ADVICE}")
            if _is_at(file, path):
                file.truncate(0)
                file.write(_line())
                file.flush()
                _held.add(file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that held this file has removed it since


_ADVICE = "wait until it has ended, or train into another folder with output="


@contextmanager
def _made_file(folder: Path, path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder by making a file, in the place of one that a dead process of this host has left."""
    try:
        with path.open("x") as file:
            file.write(_line())
    except FileExistsError as error:
        owner = _read(path)
        if owner is None or not owner.is_dead():
            raise RecipeError(
                f"{folder} is being written by {owner or 'another process'}, says {path} (this file system has no locks): "
                f"{_ADVICE}; if that process has ended, remove the file"
            ) from error
        with write_atomically(path) as partial:
            partial.write_text(_line())
        time.sleep(_TRIES * _SECONDS_BETWEEN)  # of several that do this at once, the last one to write holds the folder
        if _read(path) != Owner.here():
            raise RecipeError(f"{folder} is being written by {_read(path) or 'another process'}: {_ADVICE}") from error
    say(
        f"{folder}: this file system has no locks; {path.name} beside it keeps a second run on this machine or another out"
    )
    try:
        yield
    finally:
        if _read(path) == Owner.here():
            path.unlink()


def _line() -> str:
    owner = Owner.here()
    return f"{owner.host} {owner.pid}\n"


def _read(path: Path) -> Owner | None:
    """The process that a file names, once it is written; None where it names none, or has gone."""
    for _ in range(_TRIES):
        try:
            words = path.read_text(errors="replace").split()
        except FileNotFoundError:
            return None
        if len(words) == 2 and words[1].isdecimal():
            return Owner(words[0], int(words[1]))
        time.sleep(_SECONDS_BETWEEN)
    return None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@cache
def _close_in_forks() -> None:
    """Keep the lock to this process: loader processes, which it forks, may outlive it when it is killed."""
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])
