"""Frame tables: the times and key frames of a video stream, as a scan of all its packets would give them.

A decoder that is given one need not read the file through at each open. F frames, in the order in which they are shown.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of the bytes that `pack_table` makes and of the rules by which tables are made

_HEAD = struct.Struct("<BBHIQqqII")  # version, bytes of a step, stream, F, number of key frames, begin, end, time base
_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Times in ticks of the stream's time base, a fraction of a second; they rise, without repeats."""

    stream_index: int
    time_base: tuple[int, int]  # numerator, denominator
    ticks: NDArray[np.int64]  # (F,) at which each frame begins
    is_key_frame: NDArray[np.bool_]  # (F,)
    end_ticks: int  # the last end of a frame

    def __post_init__(self) -> None:
        if len(self.ticks) != len(self.is_key_frame) or not len(self.ticks):
            raise ValueError(f"a table of {len(self.ticks)} times and {len(self.is_key_frame)} marks of key frames")
        if bool((np.diff(self.ticks) <= 0).any()) or self.end_ticks < int(self.ticks[-1]):
            raise ValueError("a table of times that do not rise")

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def begin_seconds(self) -> float:
        return float(self.seconds[0])

    @property
    def end_seconds(self) -> float:
        return self.end_ticks * self.time_base[0] / self.time_base[1]

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """(F,) the times, rounded as torchcodec rounds them: the product before the quotient."""
        return self.ticks.astype(np.float64) * self.time_base[0] / self.time_base[1]

    @property
    def key_seconds(self) -> NDArray[np.float64]:
        """The times of the key frames."""
        return self.seconds[self.is_key_frame]


def pack_table(table: FrameTable) -> bytes:
    """The table in few bytes: the steps from frame to frame and those from key frame to key frame, compressed."""
    steps = np.diff(table.ticks)
    keys = np.flatnonzero(table.is_key_frame)
    key_steps = np.diff(keys, prepend=0).astype(np.uint32)
    width = next(size for size in _WIDTHS if int(steps.max(initial=0)) < 256**size)
    planes = steps.astype(_WIDTHS[width]).view(np.uint8).reshape(-1, width).T  # all low bytes, then all higher ones
    head = (VERSION, width, table.stream_index, len(table), len(keys), int(table.ticks[0]), table.end_ticks)
    return _HEAD.pack(*head, *table.time_base) + zlib.compress(planes.tobytes() + key_steps.tobytes(), 6)


def unpack_table(content: bytes | bytearray) -> FrameTable | None:
    """The table that `pack_table` was given; None where it was of another version. ValueError where the bytes are not its."""
    if len(content) < _HEAD.size:
        raise ValueError("a table that was cut short")
    version, width, stream, num_frames, num_keys, begin, end, *time_base = _HEAD.unpack_from(content)
    if version != VERSION:
        return None
    num_bytes = (num_frames - 1) * width
    unzip = zlib.decompressobj()
    try:
        rows = unzip.decompress(memoryview(content)[_HEAD.size :], num_bytes + 4 * num_keys + 1)
    except zlib.error as error:
        raise ValueError(f"a table that cannot be read ({error})") from None
    if width not in _WIDTHS or len(rows) != num_bytes + 4 * num_keys:
        raise ValueError(f"a table of {len(rows)} bytes where its head promises {num_bytes + 4 * num_keys}")
    planes = np.frombuffer(rows, np.uint8, num_bytes).reshape(width, -1)
    steps = np.ascontiguousarray(planes.T).view(_WIDTHS[width]).reshape(-1).astype(np.int64)
    keys = np.cumsum(np.frombuffer(rows, np.uint32, num_keys, num_bytes), dtype=np.int64)
    if num_keys and int(keys[-1]) >= num_frames:
        raise ValueError("a table with a key frame behind its last frame")
    is_key_frame = np.zeros(num_frames, np.bool_)
    is_key_frame[keys] = True
    ticks = begin + np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)])
    return FrameTable(stream, (time_base[0], time_base[1]), ticks, is_key_frame, end)
