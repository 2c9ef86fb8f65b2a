"""Rendering of the built-in video QA set. Stills are drawn at 64×64 pixels, clips written as H.264 in mp4, images as PNG.

Border 0-3, the still's colour everywhere inside it, and the lamp in rows 10-21 and columns 20-43, in pixels. All edges
are even, so that neither chroma subsampling nor a model's 32×32 input mixes two things. At 32×32, with patches of 8
merged 2×2, a quadrant is one visual token: all four show colour and border, and the upper two show half the lamp each.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torchcodec.encoders import PngEncoder, VideoEncoder  # pyright: ignore[reportPrivateImportUsage]  (no __all__)

from lightning_apollo.data.shapes.scene import NUM_SLOTS, SLOT_SECONDS, Scene, Still
from lightning_apollo.machine.video_libraries import encoding

SIDE_PIXELS = 64
FRAMES_PER_SECOND = 8
FRAMES_PER_SLOT = int(FRAMES_PER_SECOND * SLOT_SECONDS)
NUM_FRAMES = NUM_SLOTS * FRAMES_PER_SLOT

_RGB = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "purple": (150, 40, 190),
    "cyan": (40, 210, 220),
}
_INSIDE = slice(4, 60)  # of the border, in both directions
_LAMP = (slice(8, 28), slice(10, 54))  # rows, columns

# A keyframe starts every slot, nothing refers across it, and the quantiser is fixed: equal stills decode to equal
# pixels wherever they stand in a clip, so that no trace of compression tells a single frame what came before it.
_CLOSED_SLOTS = {"g": str(FRAMES_PER_SLOT), "bf": "0", "sc_threshold": "0", "qp": "18", "threads": "1"}


@cache
def draw_still(still: Still) -> Tensor:
    """The picture of a still, (3, 64, 64) uint8; shared between calls, so not to be written to."""
    picture = _colour(still.border).expand(-1, SIDE_PIXELS, SIDE_PIXELS).clone()
    picture[:, _INSIDE, _INSIDE] = _colour(still.colour)
    picture[:, *_LAMP] = _colour("white" if still.is_lit else "black")
    return picture


def draw_clip(scene: Scene) -> Tensor:
    """All frames of a clip, (32, 3, 64, 64) uint8."""
    return torch.stack([draw_still(still) for still in scene.stills()]).repeat_interleave(FRAMES_PER_SLOT, dim=0)


def write_clip(scene: Scene, path: Path) -> None:
    """Write a scene as H.264 in mp4: 32 frames at 8 a second."""
    encoder = VideoEncoder(draw_clip(scene), frame_rate=FRAMES_PER_SECOND)
    with encoding():
        encoder.to_file(path, codec="libx264", pixel_format="yuv420p", preset="superfast", extra_options=_CLOSED_SLOTS)


def write_image(still: Still, path: Path) -> None:
    """Write a still as a PNG of 32×32 pixels, the size that frames of a clip have where a token is a quadrant."""
    PngEncoder(draw_still(still)[:, ::2, ::2].contiguous()).to_file(path)


def _colour(name: str) -> Tensor:
    return torch.tensor(_RGB[name], dtype=torch.uint8).view(3, 1, 1)
