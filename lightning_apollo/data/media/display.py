"""Display geometry: stored frames turned, mirrored and with square pixels. H, W pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_apollo.data.media.decoder import DecoderInput, reading
from lightning_apollo.data.media.matroska import read_pixel_aspects
from lightning_apollo.data.media.mp4_boxes import ClaimError, Track, read_mp4_tracks
from lightning_apollo.structures import MediaError

_SQUARE_ANGLE = 1.0  # degrees that a turn may lie beside a quarter, as FFmpeg's command allows
_MAX_PIXEL_ASPECT = 16.0  # and its inverse; beyond it the number is a mistake, and pixels count as square


@dataclass(frozen=True)
class Display:
    """Steps that make stored frames upright: mirror left to right, then turn, then make their pixels square."""

    rotation_degrees: int = 0  # 0, 90, 180 or 270, counter-clockwise
    is_mirrored: bool = False
    pixel_aspect: float = 1.0  # width to height of a stored pixel

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width as shown, from those stored: a pixel that is not square changes the stored width."""
        width = max(1, round(width * self.pixel_aspect))
        return (width, height) if self.rotation_degrees % 180 else (height, width)


def read_tracks(path: str, source: DecoderInput) -> list[Track]:
    """The tracks of an MP4, MOV, Matroska or WebM file, in the order of FFmpeg's streams; none of others. MediaError where
    the header's numbers cannot be true."""
    if source.container not in ("mp4", "matroska"):
        return []
    with reading(path, source.file) as file:
        try:
            if source.container == "matroska":
                return [Track(None, pixel_aspect) for pixel_aspect in read_pixel_aspects(file)]
            return read_mp4_tracks(file)
        except ClaimError as error:
            raise MediaError(path, str(error)) from None


def display_of(path: str, track: Track | None, rotation: float | None, pixel_aspect: float) -> Display:
    """Display of a stream, by its track and by what the decoder says: degrees counter-clockwise, and the shape of a pixel in
    the coded frames. The track comes first: its matrix also tells mirrors, which no angle can.
    """
    aspect = track.pixel_aspect if track is not None and track.pixel_aspect else pixel_aspect
    aspect = aspect if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else 1.0
    if track is None or track.matrix is None:
        degrees = rotation if rotation is not None and math.isfinite(rotation) else 0.0
        return Display(_quarter(path, degrees), False, aspect)
    a, b, c, d = track.matrix
    is_mirrored = a * d - b * c < 0
    if is_mirrored:  # what is left when the mirror is taken off
        a, b = -a, -b
    return Display(_quarter(path, -math.degrees(math.atan2(b, a))), is_mirrored, aspect)


def upright(pixels: Tensor, rotation_degrees: int, is_mirrored: bool, turned_degrees: int) -> Tensor:
    """(F, 3, H, W) frames as shown, but for the shape of their pixels, from a decoder that has turned them already."""
    if not is_mirrored:
        return pixels
    stored = torch.rot90(pixels, -turned_degrees // 90, (2, 3))
    return torch.rot90(stored.flip(3), rotation_degrees // 90, (2, 3))


def _quarter(path: str, degrees: float) -> int:
    """The quarter turn, 0 to 270. MediaError where it is none."""
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > _SQUARE_ANGLE:
        raise MediaError(
            path, f"its header turns it by {degrees % 360:.0f}°, no quarter turn: write the film anew, upright"
        )
    return 90 * quarters % 360
