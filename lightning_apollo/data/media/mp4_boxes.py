"""Display matrix and pixel shape from MP4 and MOV headers, which FFmpeg's decoders do not pass on.

It also guards: a header of a few bytes that claims more samples than the file has bytes would make FFmpeg fill gigabytes
with its table of them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from lightning_apollo.data.media.h264 import is_shown_as_stored
from lightning_apollo.data.media.orientation import is_turned
from lightning_apollo.errors import UserError

_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts"}
_VISUAL_ENTRY_BYTES = 86  # of a sample description, before the boxes inside it
_MAX_EDITED_SAMPLES = 2**22  # samples times edits of one track: FFmpeg lists them anew for each edit
_MAX_DEPTH = 8
_HEAD_BYTES = 4096  # of the first sample, which hold the messages ahead of its picture
_MAX_SECONDS = 31 * 24 * 3600


class Track(NamedTuple):
    """One track, in the order of FFmpeg's streams."""

    matrix: (
        tuple[float, ...] | None
    )  # a b c d of the display matrix: (x, y) is shown at (a·x + c·y, b·x + d·y), y downwards
    pixel_aspect: float  # width to height of a pixel; 0: the container does not say
    has_order: bool = True  # it says in which order frames are shown, or that it is the one in which they are stored


class ClaimError(UserError, ValueError):
    """A header whose numbers cannot be true; one line."""


class Mp4Box(NamedTuple):
    """One box and the place of its content in the file."""

    kind: bytes
    begin: int  # of its content
    end: int


class _Boxed:
    """Facts collected from the boxes of a track."""

    def __init__(self) -> None:
        self.matrix: tuple[float, ...] = (1.0, 0.0, 0.0, 1.0)
        self.shown = self.stored = (0.0, 0.0)  # width, height in pixels
        self.pixel_aspect = 0.0
        self.num_samples = self.num_edits = 0
        self.has_order = False
        self.length_bytes = 0  # of the length ahead of each unit of a sample; 0: the codec has no units
        self.is_hevc = False
        self.first_begin = self.first_bytes = 0  # place of the first sample

    def check_orientation(self, file: BinaryIO) -> None:
        """ClaimError where the first coded frame asks to be turned."""
        if self.length_bytes and self.first_begin:
            file.seek(self.first_begin)
            if is_turned(file.read(min(self.first_bytes, _HEAD_BYTES)), self.length_bytes, self.is_hevc):
                raise ClaimError(
                    "its coded frames ask to be turned, which players do not agree on: write it anew, upright"
                )

    def finished(self, movie: tuple[float, ...]) -> Track:
        a, b, c, d = self.matrix
        e, f, g, h = movie
        matrix = (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
        aspect = self.pixel_aspect
        if not aspect:  # as FFmpeg: a matrix that scales, then the track's size against the stored one
            width, height = ((m * m + n * n) ** 0.5 for m, n in ((matrix[0], matrix[2]), (matrix[1], matrix[3])))
            if width and height and abs(width / height - 1) > 0.01:
                aspect = width / height
            elif all(self.shown) and all(self.stored) and self.shown != self.stored:
                aspect = self.shown[0] * self.stored[1] / (self.shown[1] * self.stored[0])
        return Track(matrix, aspect, self.has_order or self.num_samples == 0)  # fragments order their own


def read_mp4_tracks(file: BinaryIO) -> list[Track]:
    """Every track of the file. ClaimError where FFmpeg must not open it."""
    size = file.seek(0, io.SEEK_END)
    movie: tuple[float, ...] = (1.0, 0.0, 0.0, 1.0)
    tracks: list[_Boxed] = []
    for box in boxes(file, 0, size):
        if box.kind == b"trak":
            tracks.append(_Boxed())
        elif box.kind == b"mvhd":
            movie = _matrix(content_of(file, box, 100)[-64:][:36]) or movie
            _check_length(content_of(file, box, 32))
        elif box.kind == b"mdhd":
            _check_length(content_of(file, box, 32))
        elif box.kind == b"trun":  # codespell:ignore trun
            _check_claim(number_at(content_of(file, box, 8), 4), size)
        elif tracks:
            _read_box(file, box, tracks[-1], size)
    for track in tracks:
        track.check_orientation(file)
    return [track.finished(movie) for track in tracks]


def _read_box(file: BinaryIO, box: Mp4Box, track: _Boxed, file_bytes: int) -> None:
    if box.kind == b"tkhd":
        content = content_of(file, box, 96)
        content = content[:96] if content[:1] == b"\1" else content[:84]
        track.matrix = _matrix(content[-44:-8]) or track.matrix
        track.shown = (number_at(content, len(content) - 8) / 65536, number_at(content, len(content) - 4) / 65536)
    elif box.kind == b"stsz":
        content = content_of(file, box, 16)
        track.num_samples = number_at(content, 8)
        track.first_bytes = number_at(content, 4) or number_at(content, 12)
        _check_claim(track.num_samples, file_bytes)
    elif box.kind in (b"stco", b"co64"):
        track.first_begin = int.from_bytes(content_of(file, box, 16)[8 : 12 if box.kind == b"stco" else 16], "big")
    elif box.kind == b"ctts":
        track.has_order = True
    elif box.kind == b"elst":
        track.num_edits = number_at(content_of(file, box, 8), 4)
    elif box.kind == b"stsd":
        _read_description(file, box, track)
    if track.num_edits > 1 and track.num_edits * track.num_samples > _MAX_EDITED_SAMPLES:
        raise ClaimError(f"a header of {track.num_edits} edits over {track.num_samples} frames: write the film anew")


def _read_description(file: BinaryIO, box: Mp4Box, track: _Boxed) -> None:
    """The stored size, the shape of a pixel and the order of frames, from the first entry of a video track."""
    entry = content_of(file, box, 2**13)[8:]
    if len(entry) < _VISUAL_ENTRY_BYTES:
        return
    inner, end = io.BytesIO(entry), min(len(entry), number_at(entry, 0))
    for box_inside in boxes(inner, _VISUAL_ENTRY_BYTES, end):
        if box_inside.kind == b"pasp":
            width, height = (number_at(content_of(inner, box_inside, 8), place) for place in (0, 4))
            track.pixel_aspect = width / height if height else 0.0
        elif box_inside.kind == b"avcC":
            configuration = content_of(inner, box_inside, end)
            track.has_order |= is_shown_as_stored(configuration)
            track.length_bytes = (configuration[4] & 3) + 1 if len(configuration) > 4 else 0
        elif box_inside.kind == b"hvcC":
            configuration = content_of(inner, box_inside, end)
            track.length_bytes = (configuration[21] & 3) + 1 if len(configuration) > 21 else 0
            track.is_hevc = True
    track.stored = struct.unpack(">HH", entry[32:36])


def boxes(file: BinaryIO, begin: int, end: int, depth: int = 0) -> Iterator[Mp4Box]:
    """Every box between two places, those inside parents behind them."""
    while begin + 8 <= end:
        file.seek(begin)
        head = file.read(16)
        if len(head) < 8:
            return
        size, first = number_at(head, 0), begin + 8
        if size == 1:
            size, first = int.from_bytes(head[8:16], "big"), begin + 16
        last = end if size == 0 else begin + size
        if last < first:
            return
        box = Mp4Box(head[4:8], first, min(last, end))
        yield box
        if box.kind in _PARENTS and depth < _MAX_DEPTH:
            yield from boxes(file, box.begin, box.end, depth + 1)
        begin = last


def content_of(file: BinaryIO, box: Mp4Box, num_bytes: int) -> bytes:
    """The first bytes of its content, at most `num_bytes`."""
    file.seek(box.begin)
    return file.read(min(num_bytes, box.end - box.begin))


def number_at(content: bytes, place: int) -> int:
    """The unsigned 32-bit number at a place; 0 behind the end."""
    return int.from_bytes(content[place : place + 4], "big")


def _matrix(content: bytes) -> tuple[float, ...] | None:
    """a b c d of the nine numbers of a box; None where they are cut short or nothing would be seen."""
    if len(content) != 36:
        return None
    a, b, _, c, d, *_ = (value / 65536 for value in struct.unpack(">9i", content))
    return (a, b, c, d) if a * d != b * c else None


def _check_claim(num_samples: int, file_bytes: int) -> None:
    if num_samples > file_bytes:
        raise ClaimError(f"a header that claims {num_samples} frames in a file of {file_bytes} bytes")


def _check_length(content: bytes) -> None:
    """The length that the header of the movie or of a track claims; all ones: it is not known."""
    place, num_bytes = (20, 8) if content[:1] == b"\1" else (12, 4)
    ticks, length = number_at(content, place), content[place + 4 : place + 4 + num_bytes]
    if ticks and length != b"\xff" * num_bytes and int.from_bytes(length, "big") > _MAX_SECONDS * ticks:
        raise ClaimError(f"a header that claims a length of {int.from_bytes(length, 'big') / ticks:.3g} s")
