"""Configuration of how media are decoded and kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import ImageColor


@dataclass(frozen=True)
class PictureConfig:
    """Appearance of still pictures."""

    background: str = "white"  # behind transparent pixels: a colour's name, "#rrggbb" or "rgb(r, g, b)"

    def __post_init__(self) -> None:
        try:
            num_channels = len(ImageColor.getrgb(self.background))
        except ValueError:
            num_channels = 0
        if num_channels != 3:
            raise ValueError(
                f"background is {self.background!r}, which is no opaque colour: "
                'give a name, "#rrggbb" or "rgb(r, g, b)"'
            )


@dataclass(frozen=True)
class SupervisionConfig:
    """Limits of one media file, beyond which it counts as broken."""

    deadline_seconds: float = 60.0  # for one probe, and for one decode of all frames that a sample shows
    max_memory_mb: int = 2048  # MiB that it may take, above what the decoding process holds anyway

    def __post_init__(self) -> None:
        if not 0 < self.deadline_seconds < math.inf:
            raise ValueError(f"data.supervision.deadline_seconds must be above 0 s, it is {self.deadline_seconds:g}")
        if self.max_memory_mb < 1:
            raise ValueError(f"data.supervision.max_memory_mb must be 1 MiB or more, it is {self.max_memory_mb}")

    @property
    def max_memory_bytes(self) -> int:
        return self.max_memory_mb * 2**20


@dataclass(frozen=True)
class FrameCacheConfig:
    """Folder and size limit of the frame cache."""

    folder: str  # all ranks and loader processes may share it, and runs one after the other
    max_gigabytes: float  # of 10⁹ bytes; frames used longest ago go first. An epoch must fit, or nothing is found again

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("frame_cache.folder names no folder")
        if self.max_gigabytes <= 0:
            raise ValueError(f"frame_cache.max_gigabytes must be more than 0, it is {self.max_gigabytes}")
