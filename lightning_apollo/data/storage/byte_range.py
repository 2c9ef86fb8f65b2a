"""A range of bytes as a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class ByteRange(io.RawIOBase):
    """Raw file of `num_bytes` bytes, each read from where it lies when it is asked for; to be wrapped in io.BufferedReader.

    read: returns as many bytes from a position on as there are, at most the given number. close: closes what it reads from.
    """

    def __init__(self, num_bytes: int, read: Callable[[int, int], bytes], close: Callable[[], None]) -> None:
        self._num_bytes = num_bytes
        self._read = read
        self._close = close
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer)
        wanted = min(len(target), self._num_bytes - self._position)
        if wanted <= 0:
            return 0
        content = self._read(self._position, wanted)
        target[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._close()
        super().close()
