"""A file that counts the bytes that are read of it."""

from __future__ import annotations

import io
from typing import Any


class CountedFile(io.BytesIO):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.num_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.num_bytes += len(content)
        return content

    def readinto(self, buffer: Any, /) -> int:
        num_bytes = super().readinto(buffer)
        self.num_bytes += num_bytes
        return num_bytes
