"""Frame table of an MP4 or MOV file from its index alone.

FFmpeg makes its times of the same numbers. Where its rules depend on more than these, or on its version, there is no table:
the file is scanned.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.mp4_boxes import Mp4Box, boxes, content_of, number_at
from lightning_apollo.data.media.mp4_samples import Samples, read_samples

_FRAGMENTED = {b"mvex", b"moof"}
_PARTIAL_KEYS = {b"stps", b"sbgp", b"sgpd"}  # more ways to name frames at which decoding can begin
_TABLES = {b"hdlr", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stss", b"stsz", b"stz2", b"stsc", b"stco", b"co64"}
_MAX_TICKS = 2**62
_MAX_FRAME_SECONDS = 60  # a frame that is said to last longer may be a mistake, which FFmpeg mends in ways of its own


class _Track(NamedTuple):
    """The boxes of a track, and its number among the streams."""

    number: int
    places: dict[bytes, Mp4Box]
    movie_scale: int  # ticks a second of its edits


def read_mp4_table(file: BinaryIO) -> FrameTable | None:
    """The table of the only video track; None where there are more, or where only a scan can tell."""
    file_bytes = file.seek(0, io.SEEK_END)
    try:
        track = _video_track(file, file_bytes)
        samples = read_samples(file, track.places, file_bytes)
        scale, ticks = _clock(file, track.places[b"mdhd"])
        return _shown(samples, _edits(file, track, scale), ticks, track.number, scale)
    except ValueError:  # what is wrong is for whoever debugs: a scan reads the file in any case
        return None


def _video_track(file: BinaryIO, file_bytes: int) -> _Track:
    tracks: list[dict[bytes, Mp4Box]] = []
    counts: Counter[bytes] = Counter()
    movie_scale = 0
    for box in boxes(file, 0, file_bytes):
        counts[box.kind] += 1
        if box.kind in _FRAGMENTED:
            raise ValueError("a file of fragments")
        if box.kind == b"mvhd":
            movie_scale, _ = _clock(file, box)
        elif box.kind == b"trak":
            tracks.append({})
        elif tracks and box.kind in _TABLES | _PARTIAL_KEYS:
            if box.kind in tracks[-1] and box.kind != b"hdlr":  # MOV has a second one, of the data
                raise ValueError(f"a track with two boxes {box.kind!r}")
            tracks[-1].setdefault(box.kind, box)
    films = [number for number, places in enumerate(tracks) if _kind(file, places) == b"vide"]
    if counts[b"moov"] != 1 or len(films) != 1 or any(kind in tracks[films[0]] for kind in _PARTIAL_KEYS):
        raise ValueError("several films, or more ways to name key frames")
    return _Track(films[0], tracks[films[0]], movie_scale)


def _kind(file: BinaryIO, places: dict[bytes, Mp4Box]) -> bytes:
    return content_of(file, places[b"hdlr"], 12)[8:] if b"hdlr" in places else b""


def _clock(file: BinaryIO, box: Mp4Box) -> tuple[int, int]:
    """Ticks a second, and the length in ticks; a length of all ones is not known."""
    content = content_of(file, box, 32)
    place, num_bytes = (20, 8) if content[:1] == b"\1" else (12, 4)
    return number_at(content, place), int.from_bytes(content[place + 4 : place + 4 + num_bytes], "big")


def _edits(file: BinaryIO, track: _Track, scale: int) -> tuple[int, int, int] | None:
    """Gap ahead of what is shown, its begin and its length, in ticks; None where all is shown."""
    if b"elst" not in track.places:
        return None
    box = track.places[b"elst"]
    is_wide = content_of(file, box, 1) == b"\1"
    num_edits = number_at(content_of(file, box, 8), 4)
    dtype = np.dtype([("length", ">u8" if is_wide else ">u4"), ("begin", ">i8" if is_wide else ">i4"), ("rate", ">i4")])
    content = content_of(file, box, 8 + 3 * dtype.itemsize)[8:]
    if not 1 <= num_edits <= 2 or len(content) < num_edits * dtype.itemsize or not track.movie_scale:
        raise ValueError(f"{num_edits} edits")
    edits = np.frombuffer(content, dtype, num_edits)
    lengths = [(int(length) * scale + track.movie_scale // 2) // track.movie_scale for length in edits["length"]]
    is_gap = [int(begin) == -1 for begin in edits["begin"]]
    if is_gap[-1] or (num_edits == 2 and not is_gap[0]) or int(edits["rate"][-1]) != 1 << 16:
        raise ValueError("edits that join parts or change the speed")
    begin = int(edits["begin"][-1])
    if begin < 0 or not lengths[-1] or sum(lengths) + begin >= _MAX_TICKS:
        raise ValueError("an edit of unknown length")
    return sum(lengths[:-1]), begin, lengths[-1]


def _shown(
    samples: Samples, edits: tuple[int, int, int] | None, track_ticks: int, index: int, scale: int
) -> FrameTable:
    """The table of the samples that are shown, which FFmpeg makes begin where the gap ahead of them ends."""
    shown, is_inside, shift = samples.shown, np.ones(len(samples.shown), np.bool_), 0
    track_ticks, last_entry = min(track_ticks, int(samples.lengths.sum())), len(shown) - 1
    if edits is not None:
        gap, begin, length = edits
        is_inside = (shown >= begin) & (shown < begin + length)
        if not bool(is_inside.any()):
            raise ValueError("an edit that shows nothing")
        last_entry = _last_entry(samples, is_inside, begin, begin + length)
        shift = gap - int(shown[is_inside].min())
        track_ticks = min(track_ticks, gap + length)
    ticks, is_key, lengths = shown[is_inside] + shift, samples.is_key[is_inside], samples.lengths[is_inside]
    order = np.argsort(ticks, kind="stable")
    ticks = ticks[order]
    if bool((np.diff(ticks) <= 0).any()) or int(samples.lengths.max()) > _MAX_FRAME_SECONDS * scale:
        raise ValueError("times that do not rise, or leap")
    length, place = int(lengths[order[-1]]), int(np.flatnonzero(is_inside)[order[-1]])
    # without shifts, some versions of FFmpeg let the last frame of all last to the end of the track, where that is later
    rest = track_ticks - int(ticks[-1])
    if not samples.has_shifts and place == last_entry and rest != length and not (rest <= 0 and samples.is_constant):
        raise ValueError("an end that depends on the version of FFmpeg")
    return FrameTable(index, (1, scale), ticks, is_key[order], int(ticks[-1]) + length)


def _last_entry(samples: Samples, is_inside: NDArray[np.bool_], begin: int, end: int) -> int:
    """The last sample that FFmpeg keeps of an edit: the first key frame after it, or the second where frames change their
    order. ValueError where samples inside lie behind it, or ahead of the key frame from which FFmpeg decodes."""
    places = np.flatnonzero(is_inside)
    before = np.flatnonzero(samples.is_key & (samples.shown <= begin) & (samples.decoded <= begin))
    ends = np.flatnonzero(samples.is_key & (samples.shown + samples.lengths >= end))
    ends = ends[1:] if samples.has_shifts else ends
    last = int(ends[0]) if len(ends) else len(is_inside) - 1
    if int(places[-1]) > last or (len(before) and int(places[0]) < int(before[-1])):
        raise ValueError("an edit of samples out of order")
    return last
