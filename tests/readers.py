"""Readers for tests: real headers, and decoding as a test wants it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.structures import Frames, MediaInfo


@dataclass(frozen=True)
class ReaderWith(DirectReader):
    """Decode by calling `replacement`."""

    replacement: Callable[[MediaInfo, Tensor, tuple[int, int]], Frames] = field(default=media.decode)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        return self.replacement(info, timestamps, size)
