"""Pillow pictures of any mode as 8-bit RGB over a background. H, W pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFile

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_TO_EIGHT_BITS = {"L;2": lambda v: 85 * v, "L;4": lambda v: 17 * v, "RGB;16B": lambda v: tuple(c >> 8 for c in v)}


def correct_transparent_colour(picture: ImageFile.ImageFile) -> None:
    """Bring a PNG's transparent colour to the 8 bits of its pixels, which Pillow forgets; before they are read."""
    if picture.format == "PNG" and isinstance(picture.info.get("transparency"), int | tuple):
        scale = next((_TO_EIGHT_BITS[tile.args] for tile in picture.tile if tile.args in _TO_EIGHT_BITS), None)
        if scale is not None:
            picture.info["transparency"] = scale(picture.info["transparency"])


def to_rgb(picture: Image.Image, background: str) -> Image.Image:
    """(H, W) of mode RGB: deep greys in 8 bits, then over the background with the rounding of Pillow's alpha_composite.

    ValueError for values that are no numbers.
    """
    if picture.mode.startswith(("I", "F")):
        picture = _to_grey(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(layer, mask=layer)
    return canvas


def _to_grey(picture: Image.Image) -> Image.Image:
    """(H, W) of mode L, or LA where a value stands for transparency."""
    tags: dict[int, Any] = getattr(picture, "tag_v2", {})
    values = np.array(picture)
    grey = _scaled_floats(values) if picture.mode == "F" else _scaled_integers(values, tags.get(_BITS_PER_SAMPLE))
    if tags.get(_PHOTOMETRIC) == 0:  # its zero is white
        grey = 255 - grey
    shown = Image.fromarray(grey)
    if "transparency" in picture.info:
        shown.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return shown


def _scaled_integers(values: np.ndarray, bits_per_sample: object) -> np.ndarray:
    """(H, W) uint8 nearest to 255 v / 65535; of a TIFF with 12 bits, to 255 v / 4095."""
    largest = 4095 if bits_per_sample == (12,) else 65535
    return np.rint(np.arange(largest + 1) * (255 / largest)).astype(np.uint8)[values]


def _scaled_floats(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 0 to 1 is black to white; values outside of it make their smallest black, their largest white."""
    with np.errstate(all="ignore"):
        low, high = values.min(), values.max()
        spread = high - low
    if not np.isfinite(spread):
        raise ValueError("NaN or infinite values: write numbers in their place")
    if low >= 0 and high <= 1:
        low, spread = 0.0, 1.0
    values -= low
    values *= 255 / (float(spread) or 1.0)
    return np.rint(values, out=values).astype(np.uint8)
