"""The pixels of the built-in video QA set: stills drawn at 64×64 pixels, clips in H.264 and mp4, images in PNG.

A quadrant from its outer corner to its inner corner, in pixels: border 0-3, dot 6-11, square 8-25, lamp 26-31. All
edges are even, so that neither chroma subsampling nor a model's 32×32 input mixes two things. At 32×32, with patches of
8 merged 2×2, a quadrant is one visual token; its floor has a grey of its own, so that the token tells where it is.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torchcodec.encoders import PngEncoder, VideoEncoder  # pyright: ignore[reportPrivateImportUsage]  (no __all__)

from lightning_apollo.data.shapes_scene import NUM_SLOTS, PLACES, SLOT_SECONDS, Scene, Still

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
_FLOOR_GREYS = dict(zip(PLACES, (80, 120, 160, 200), strict=True))
_FLOOR, _DOT, _SQUARE, _LAMP = (4, 32), (6, 12), (8, 26), (26, 32)  # begin and end, from the outer corner

# A keyframe starts every slot, nothing refers across it, and the quantiser is fixed: equal stills decode to equal
# pixels wherever they stand in a clip, so that no trace of compression tells a single frame what came before it.
_CLOSED_SLOTS = {"g": str(FRAMES_PER_SLOT), "bf": "0", "sc_threshold": "0", "qp": "18", "threads": "1"}


@lru_cache(maxsize=2048)
def draw(still: Still) -> Tensor:
    """The picture of a still, (3, 64, 64) uint8; shared between calls, so not to be written to."""
    picture = _colour(still.border).expand(-1, SIDE_PIXELS, SIDE_PIXELS).clone()
    for place, grey in _FLOOR_GREYS.items():
        _box(picture, place, *_FLOOR).fill_(grey)
    _box(picture, still.place, *_SQUARE).copy_(_colour(still.colour))
    for place in PLACES:
        _box(picture, place, *_LAMP).copy_(_colour("white" if still.is_lit else "black"))
    for place in still.dots:
        _box(picture, place, *_DOT).copy_(_colour("black"))
    return picture


def draw_clip(scene: Scene) -> Tensor:
    """All frames of a clip, (32, 3, 64, 64) uint8."""
    return torch.stack([draw(still) for still in scene.stills()]).repeat_interleave(FRAMES_PER_SLOT, dim=0)


def write_clip(scene: Scene, path: Path) -> None:
    """Writes a scene as H.264 in mp4: 32 frames at 8 a second."""
    encoder = VideoEncoder(draw_clip(scene), frame_rate=FRAMES_PER_SECOND)
    encoder.to_file(path, codec="libx264", pixel_format="yuv420p", preset="superfast", extra_options=_CLOSED_SLOTS)


def write_image(still: Still, path: Path) -> None:
    """Writes a still as a PNG of 32×32 pixels, the size that frames of a clip have where a token is a quadrant."""
    PngEncoder(draw(still)[:, ::2, ::2].contiguous()).to_file(path)


def _colour(name: str) -> Tensor:
    return torch.tensor(_RGB[name], dtype=torch.uint8).view(3, 1, 1)


def _box(picture: Tensor, place: str, begin: int, end: int) -> Tensor:
    """A view of the square between two distances from the outer corner of a quadrant."""
    mirrored = slice(SIDE_PIXELS - end, SIDE_PIXELS - begin)
    vertical, horizontal = place.split()
    rows = slice(begin, end) if vertical == "top" else mirrored
    columns = slice(begin, end) if horizontal == "left" else mirrored
    return picture[:, rows, columns]
