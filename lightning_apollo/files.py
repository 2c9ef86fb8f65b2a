"""Files that appear whole or not at all, and locks between processes."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; what lies there at the end takes the place of `path` in one step.

    The name is no other writer's, in whatever process or on whatever machine. After an error, `path` is as it was and
    nothing is left beside it. The umask says who may read the file, also where a library writes it for its owner alone.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
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


def remove_partials(folder: Path) -> None:
    """Removes what killed writers left in a folder, in which no other process may be writing."""
    for path in folder.glob("*.partial"):
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk; OSError where they cannot be written there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the lock of this file, made where it is missing, after waiting for a process that has it.

    The system gives it back when the process ends, even when it is killed.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of this file at this moment."""
    if not path.is_file():
        return False
    with path.open("a") as file:
        return not try_lock(file)


def try_lock(file: TextIO) -> bool:
    """Takes the lock of an open file unless another process has it; OSError where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
