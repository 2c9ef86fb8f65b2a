"""Atomic writes, best-effort files and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO
from uuid import uuid4

_PARTIAL = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}\.partial")
_MAX_BYTES = 2**24  # that wait for room

logger = logging.getLogger(__name__)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; what lies there at the end takes the place of `path` in one step.

    The name is no other writer's, in whatever process or on whatever machine. After an error, `path` is as it was and
    nothing is left beside it. The umask says who may read the file, also where a library writes it for its owner alone.
    """
    partial = _partial(path)
    try:
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode  # as the umask, or the folder's default list of access, has it
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode & 0o777)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` to fill, which gets its name in one step at the end.

    After an error nothing is left beside it. FileExistsError where another writer was faster: its folder stays.
    """
    partial = _partial(folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partials(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder, or of `name` in it alone; no other process may be writing there."""
    for path in folder.glob("*.partial"):
        partial = _PARTIAL.fullmatch(path.name)
        if partial is None or name not in (None, partial["name"]):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid4().hex}.partial")


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk; OSError where they cannot be written there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(path: Path) -> Iterator[TextIO]:
    """Yield this file, made where it is missing and locked, after waiting for a process that has its lock.

    The system gives it back when the process ends, even when it is killed.
    """
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def is_locked(path: Path) -> bool:
    """True if a process holds the lock of this file at this moment."""
    if not path.is_file():
        return False
    with path.open("a") as file:
        return not try_lock(file)


def try_lock(file: IO[Any], is_shared: bool = False) -> bool:
    """Take the lock of an open file unless another process has it; OSError where the file system has no locks.

    Processes may hold a shared lock together, and none of them beside one that is not shared.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Misses:
    """Count of failures of what only informs; the first is a warning."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.number = 0

    def add(self, error: BaseException) -> None:
        self.number += 1
        if self.number == 1:
            reason = system_words(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
            logger.warning("%s cannot be written (%s): the run continues, and tries again", self.what, reason)

    def say(self, after: str) -> None:
        """Say at a run's end how many there were, if any, and `after` it what came of them."""
        if self.number:
            logger.warning("%s: %d writes failed; %s", self.what, self.number, after)


def system_words(error: BaseException) -> str | None:
    """The system's words where the error, or one that it came from, has them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return None


class SideFile:
    """Text file that grows; what cannot be written is kept and written before what comes later.

    Above 16 MiB of that, later text is lost. Several processes may append whole lines; on a full disk theirs may mix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.misses = Misses(str(path))
        self._waiting = b""

    @property
    def is_behind(self) -> bool:
        return bool(self._waiting)

    def append(self, text: str) -> None:
        """Write to the file's end, or as much as fits: the rest follows when there is room."""
        if len(self._waiting) < _MAX_BYTES:
            self._waiting += text.encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                while self._waiting:
                    self._waiting = self._waiting[os.write(descriptor, self._waiting) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            self.misses.add(error)
