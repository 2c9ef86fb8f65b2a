"""Objects of a store as files, of which few blocks are kept.

A jump fetches one block. Reading on fetches an eighth of the run so far, at most MAX_REQUEST_BYTES. So what is fetched and not
read is an eighth of a run at most, and a block.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from lightning_apollo.data.storage.faults import changed, cut_short, persist

BLOCK_BYTES = 256 * 2**10
MAX_REQUEST_BYTES = 4 * 2**20
KEPT_BYTES = 32 * 2**20  # of one open file; a request more than that is in memory while it is answered

_AHEAD = 8  # one part in so many of a run


class StoreFile(Protocol):
    """An open object. Its errors are of whatever class."""

    size: int  # bytes
    mark: str | None  # changes with the content; None where the store has nothing of the kind

    def fetch(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end`, which is not beyond the size; fewer count as cut short."""
        ...

    def close(self) -> None: ...


class Blocks:
    """Blocks of an object, for a ByteRange. Every error is a MediaError."""

    def __init__(self, address: str, open_file: Callable[[], StoreFile]) -> None:
        self._address = address
        self._open = open_file
        self._owner_id = os.getpid()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # by number, the one used last at the end
        self._run_begin = self._run_end = 0  # numbers of the blocks that were fetched one after the other
        self._file: StoreFile | None = None
        self._file = file = persist(address, open_file)
        self.size, self._mark = file.size, file.mark

    def read(self, position: int, num_bytes: int) -> bytes:
        """Bytes from a position inside the object on: as many as are wanted, or those up to the block's end."""
        number, begin = divmod(position, BLOCK_BYTES)
        return self._block(number, -(-(begin + num_bytes) // BLOCK_BYTES))[begin : begin + num_bytes]

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._owner_id == os.getpid():
            file.close()
        self._blocks.clear()

    def _block(self, number: int, num_wanted: int) -> bytes:
        """A block. Where it is not kept it is fetched, with as many as are wanted or probably will be."""
        if number not in self._blocks:
            if number != self._run_end:
                self._run_begin = number
            ahead = max(num_wanted, (number - self._run_begin) // _AHEAD)
            most = max(1, min(MAX_REQUEST_BYTES, KEPT_BYTES) // BLOCK_BYTES)
            end = number + max(1, min(ahead, most))
            end = next((known for known in range(number + 1, end) if known in self._blocks), end)
            self._fetch(number, end)
            self._run_end = end
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, first: int, end: int) -> None:
        begin = first * BLOCK_BYTES
        content = memoryview(self._request(begin, min(end * BLOCK_BYTES, self.size)))
        for number in range(first, end):
            place = number * BLOCK_BYTES - begin
            if place < len(content):
                self._blocks[number] = bytes(content[place : place + BLOCK_BYTES])
        while len(self._blocks) * BLOCK_BYTES > max(KEPT_BYTES, BLOCK_BYTES):
            self._blocks.popitem(last=False)

    def _request(self, begin: int, end: int) -> bytes:
        def ask() -> bytes:
            file, self._file = self._file, None  # not shared with a late attempt, and opened anew after a fault
            if file is None or self._owner_id != os.getpid():  # connections do not survive a fork
                file = self._open_again()
            try:
                content = file.fetch(begin, end)
                if len(content) != end - begin:
                    raise cut_short(f"({len(content)} of {end - begin} bytes)")
            except BaseException:
                file.close()
                raise
            self._file = file
            return content

        return persist(self._address, ask)

    def _open_again(self) -> StoreFile:
        file = self._open()
        if (file.size, file.mark) != (self.size, self._mark):
            file.close()
            raise changed("(its size or ETag is another)")
        self._owner_id = os.getpid()
        return file
