"""Pixel shape from Matroska and WebM headers, which FFmpeg's decoders do not pass on."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from lightning_apollo.data.media.mp4_boxes import ClaimError

_SEGMENT, _TRACKS, _ENTRY, _VIDEO, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675
_INFO, _DURATION = 0x1549A966, 0x4489
_PARENTS = {_SEGMENT, _TRACKS, _ENTRY, _VIDEO, _INFO}
_MAX_TICKS = 1e12  # 31 days in units of 2.7 µs: every writer's are longer, most take milliseconds
_STORED, _SHOWN, _UNIT = (0xB0, 0xBA), (0x54B0, 0x54BA), 0x54B2  # width and height
_TYPE, _STREAM_TYPES = 0x83, {1, 2, 17, 33}  # video, sound, subtitles, data: what FFmpeg makes streams of
_UNKNOWN_UNIT = 4
_MAX_ELEMENTS = 2000  # before the tracks and in them


class _Element(NamedTuple):
    kind: int
    begin: int  # of its content
    num_bytes: int


def read_pixel_aspects(file: BinaryIO) -> list[float]:
    """Width to height of a pixel of every track, in the order of FFmpeg's streams; 0 where the header does not say.
    ClaimError where its length cannot be true."""
    tracks: list[dict[int, int]] = []
    for element in _elements(file):
        if element.kind == _ENTRY:
            tracks.append({})
        elif element.kind == _DURATION and element.num_bytes in (4, 8):
            file.seek(element.begin)
            (ticks,) = struct.unpack(">f" if element.num_bytes == 4 else ">d", file.read(element.num_bytes))
            if not ticks <= _MAX_TICKS:
                raise ClaimError(f"its header claims a length of {ticks / 1e3:.3g} s")
        elif tracks and element.kind in (_TYPE, *_STORED, *_SHOWN, _UNIT) and element.num_bytes <= 8:
            file.seek(element.begin)
            tracks[-1][element.kind] = int.from_bytes(file.read(element.num_bytes), "big")
    return [_pixel_aspect(track) for track in tracks if track.get(_TYPE) in _STREAM_TYPES]


def _pixel_aspect(track: dict[int, int]) -> float:
    if track.get(_UNIT, 0) >= _UNKNOWN_UNIT or not any(kind in track for kind in _SHOWN):
        return 0.0
    stored = [track.get(kind, 0) for kind in _STORED]
    shown = [track.get(kind, side) for kind, side in zip(_SHOWN, stored, strict=True)]
    return shown[0] * stored[1] / (shown[1] * stored[0]) if all((*stored, *shown)) else 0.0


def _elements(file: BinaryIO) -> Iterator[_Element]:
    """Every element up to the first cluster of frames, parents before what is in them."""
    place = 0
    for _ in range(_MAX_ELEMENTS):
        file.seek(place)
        head = file.read(12)
        kind, kind_bytes = _variable(head, keeps_marker=True)
        num_bytes, size_bytes = _variable(head[kind_bytes:], keeps_marker=False)
        if not kind_bytes or not size_bytes or kind == _CLUSTER:
            return
        place += kind_bytes + size_bytes
        yield _Element(kind, place, num_bytes)
        if kind not in _PARENTS:
            place += num_bytes


def _variable(content: bytes, keeps_marker: bool) -> tuple[int, int]:
    """A number of variable length and its length in bytes; 0 and 0 where there is none."""
    length = 9 - content[0].bit_length() if content and content[0] else 0
    if not length or len(content) < length:
        return 0, 0
    number = int.from_bytes(content[:length], "big")
    return number if keeps_marker else number & ((1 << 7 * length) - 1), length
