"""A folder of files with a limit on their bytes, shared by many processes: the least recently used go first.

A file appears by a rename, whole, and brings a checksum, so that what a crash of the machine has cut short is not read.
Room is taken under a lock before a file is written: an empty file of the final size takes it, and is counted and removed
like the others. FOLDER/total, the locked file, holds the sum, at times too high and never too low; where it passes the
limit, the folder is counted anew.
"""

from __future__ import annotations

import errno
import os
import uuid
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from lightning_apollo.files import lock

_CHECKSUM_BYTES = 4
_BLOCK_BYTES = 4096  # of a file system: what the smallest file takes
_SHARE_KEPT = 0.9  # of the limit, where files must go: counting the folder costs time


@dataclass(frozen=True)
class BoundedFolder:
    """Files by their names, which begin with two letters or digits that spread them over subfolders."""

    folder: Path
    max_bytes: int

    def read(self, name: str) -> bytearray | None:
        """The content, used at this moment; None where there is no such file, not any more, or not a whole one."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                content = bytearray(max(0, os.fstat(file.fileno()).st_size - _CHECKSUM_BYTES))
                checksum = file.read(_CHECKSUM_BYTES)
                file.readinto(content)
            os.utime(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # another process has removed it, perhaps this very moment
                return None
            raise
        return content if checksum == _checksum([content]) else None

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> bool:
        """True if the file is there now, in the place of one that was. It is not where it alone passes the limit, nor
        where the disk is full, which a warning says."""
        path = self._path(name)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        num_bytes = _CHECKSUM_BYTES + sum(memoryview(part).nbytes for part in parts)
        try:
            if not self._take_room(temporary, num_bytes):
                return False
            with temporary.open("r+b") as file:
                for part in (_checksum(parts), *parts):
                    file.write(part)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno == errno.ENOENT:  # a process in need of room took it for an old file
                return False
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                warnings.warn(
                    f"{self.folder}: the disk is full before the cache is: give it fewer gigabytes", stacklevel=2
                )
                return False
            raise
        return True

    def num_bytes(self) -> int:
        """Bytes of the files on the disk; every one is looked at."""
        return sum(file.num_bytes for file in self._files())

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _take_room(self, path: Path, num_bytes: int) -> bool:
        """Make a file of this size and nothing in it; False where the limit has no room for it."""
        size = _on_disk(num_bytes)
        if size > self.max_bytes:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / "total") as sum_file:
            total = _read_number(sum_file)
            if total is None or total + size > self.max_bytes:
                total = self._make_room(size)
            sum_file.truncate(0)
            sum_file.write(str(total + size))
            sum_file.flush()
            with path.open("wb") as file:
                file.truncate(num_bytes)
        return True

    def _make_room(self, size: int) -> int:
        """Bytes of the files, once as many are gone as it takes for `size` bytes more."""
        files = self._files()
        total = sum(file.num_bytes for file in files)
        if total + size <= self.max_bytes:
            return total
        for file in sorted(files):
            if total <= min(self.max_bytes - size, int(_SHARE_KEPT * self.max_bytes)):
                break
            file.path.unlink(missing_ok=True)
            total -= file.num_bytes
        return total

    def _files(self) -> list[_File]:
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(FileNotFoundError):  # renamed since it was listed: it is there under its name
                status = path.stat()
                files.append(_File(status.st_mtime_ns, path, _on_disk(status.st_size)))
        return files


class _File(NamedTuple):
    """In the order of last use."""

    used_ns: int
    path: Path
    num_bytes: int


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _checksum(parts: Sequence[bytes | bytearray | memoryview]) -> bytes:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum.to_bytes(_CHECKSUM_BYTES)


def _read_number(file: IO[str]) -> int | None:
    file.seek(0)
    text = file.read()
    return int(text) if text.isdecimal() else None
