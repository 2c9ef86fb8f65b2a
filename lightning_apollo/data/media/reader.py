"""MediaReader: probe headers, decode frames.

A reader may wrap another: a cache around a supervisor around plain reading. All answer alike; only time, memory and what a
broken decoder can do to the run differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from lightning_apollo.data.media import video as media
from lightning_apollo.structures import Frames, MediaInfo, Modality


class MediaReader(Protocol):
    """Read media by their address. It can be pickled: every loader process holds one."""

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        """As `media.probe`."""
        ...

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        """As `media.decode`: (F,) seconds, (height, width), the colour behind transparent pixels of still pictures."""
        ...


@dataclass(frozen=True)
class DirectReader:
    """Read in this very process. A decoder that hangs hangs it too."""

    num_threads: int = 1  # FFmpeg threads for one video

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        return media.probe(address, modality)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        return media.decode(info, timestamps, size, self.num_threads, background)


class ReadingCost(NamedTuple):
    """Cost of reading so far."""

    seconds: float  # in probes and decodes
    num_reads: int  # times that frames were asked for


class MeasuredReader:
    """Another reader with its time and the readings of frames counted, those that fail included."""

    def __init__(self, inner: MediaReader) -> None:
        self.inner = inner
        self.cost = ReadingCost(0.0, 0)

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        with self._measured(num_reads=0):
            return self.inner.probe(address, modality)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        with self._measured(num_reads=1):
            return self.inner.decode(info, timestamps, size, background)

    @contextmanager
    def _measured(self, num_reads: int) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.cost.seconds + time.perf_counter() - begin
            self.cost = ReadingCost(seconds, self.cost.num_reads + num_reads)
