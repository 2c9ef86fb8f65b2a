"""Who opens media files: what a sample asks for headers and frames.

A reader may wrap another: a cache around a supervisor around plain reading. All answer alike; only time, memory and what a
broken decoder can do to the run differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lightning_apollo.data import media
from lightning_apollo.structures import Frames, MediaInfo, Modality


class MediaReader(Protocol):
    """Reads media by their address. It can be pickled: every loader process holds one."""

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        """As `media.probe`."""
        ...

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int]) -> Frames:
        """As `media.decode`: (F,) seconds, (height, width)."""
        ...


@dataclass(frozen=True)
class DirectReader:
    """Reads in this very process. A decoder that hangs hangs it too."""

    num_threads: int = 1  # FFmpeg threads for one video

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        return media.probe(address, modality)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int]) -> Frames:
        return media.decode(info, timestamps, size, self.num_threads)
