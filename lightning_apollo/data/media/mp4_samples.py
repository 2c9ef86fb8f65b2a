"""Samples of a track of an MP4 or MOV file by the tables of its index, without a byte of its media.

They say of every sample (a compressed frame) its size, place, length and shift between decoding and showing, and which are key
frames (ISO/IEC 14496-12, 8.6 and 8.7).
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.media.h264 import is_key_picture
from lightning_apollo.data.media.mp4_boxes import Mp4Box, content_of, number_at

_H264 = {b"avc1", b"avc3"}
_CODECS = {*_H264, b"hvc1", b"hev1", b"av01", b"vp09", b"mp4v"}  # of which each sample is one frame with its own time
_MAX_TABLE_BYTES = 2**26
_MAX_SAMPLES = 2**23  # 77 hours at 30 frames a second
_MAX_SHIFT = 2**28  # ticks; FFmpeg takes a larger one for a broken table
_HEAD_BYTES = 4096  # of a sample, which say what kind of picture it is


class Samples(NamedTuple):
    """Samples in the order in which they are stored and decoded."""

    decoded: NDArray[np.int64]  # (F,) ticks
    shown: NDArray[np.int64]  # (F,) ticks
    lengths: NDArray[np.int64]  # (F,) ticks
    is_key: NDArray[np.bool_]  # (F,)
    has_shifts: bool
    is_constant: bool  # their rate


def read_samples(file: BinaryIO, places: dict[bytes, Mp4Box], file_bytes: int) -> Samples:
    """The samples by the boxes of their track. ValueError where they do not settle what FFmpeg makes of
    them, as where they do not fit the file."""
    if not {b"mdhd", b"stsd", b"stts", b"stsz", b"stsc"} <= places.keys():
        raise ValueError("a track without one of its tables")
    sizes = _sizes(file, places[b"stsz"])
    num_samples = len(sizes)
    begins = _begins(file, places, sizes)
    if not int(sizes.min()) or int(begins.min()) < 0 or int((begins + sizes).max()) > file_bytes:
        raise ValueError("samples that are empty or outside the file")
    runs = _rows(file, places[b"stts"], 2)
    lengths = _repeated(runs, num_samples)
    decoded = np.cumsum(lengths) - lengths
    has_shifts = b"ctts" in places
    shifts = _repeated(_rows(file, places[b"ctts"], 2), num_samples) if has_shifts else np.zeros_like(decoded)
    shifts = shifts.astype(np.uint32).view(np.int32).astype(np.int64)  # signed, whatever version the box calls itself
    # with shifts, some versions of FFmpeg take the length of the last frame from the rate, which it guesses if it varies
    if (has_shifts and (len(runs) > 1 or int(np.abs(shifts).max()) >= _MAX_SHIFT)) or int(lengths.max()) >= 2**31:
        raise ValueError("times that depend on the version of FFmpeg")
    is_key = _key_frames(file, places, num_samples)
    _check_description(file, places[b"stsd"], begins, sizes, is_key)
    return Samples(decoded, decoded + shifts, lengths, is_key, has_shifts, len(runs) == 1)


def _sizes(file: BinaryIO, box: Mp4Box) -> NDArray[np.int64]:
    """(F,) bytes of each sample."""
    head = content_of(file, box, 12)
    size, num_samples = number_at(head, 4), number_at(head, 8)
    if not 1 <= num_samples <= _MAX_SAMPLES:
        raise ValueError(f"{num_samples} samples")
    return np.full(num_samples, size, np.int64) if size else _numbers(file, box, 12, num_samples, ">u4")


def _begins(file: BinaryIO, places: dict[bytes, Mp4Box], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(F,) first byte of each sample: they lie end to end in chunks, of which runs hold equally many."""
    kind, dtype = (b"stco", ">u4") if b"stco" in places else (b"co64", ">u8")
    if kind not in places:
        raise ValueError("a track without places")
    num_chunks = number_at(content_of(file, places[kind], 8), 4)
    chunks = _numbers(file, places[kind], 8, num_chunks, dtype)
    first, per_chunk, description = _rows(file, places[b"stsc"], 3).T
    if not len(first) or first[0] != 1 or bool((np.diff(first) <= 0).any()) or bool((description != 1).any()):
        raise ValueError("runs of chunks that do not rise, or of several descriptions")
    counts = np.repeat(per_chunk, np.diff(first.clip(max=num_chunks + 1), append=num_chunks + 1))
    if int(counts.sum()) != len(sizes):
        raise ValueError(f"{int(counts.sum())} samples in chunks, {len(sizes)} with a size")
    before = np.cumsum(sizes) - sizes  # bytes of all samples ahead
    firsts = (np.cumsum(counts) - counts)[counts > 0]  # the first sample of each chunk
    return np.repeat(chunks[counts > 0] - before[firsts], counts[counts > 0]) + before


def _key_frames(file: BinaryIO, places: dict[bytes, Mp4Box], num_samples: int) -> NDArray[np.bool_]:
    """(F,) True at key frames. Without their table every sample is called one, which few files mean."""
    if b"stss" not in places:
        raise ValueError("no table of key frames")
    keys = _rows(file, places[b"stss"], 1)[:, 0]
    if not len(keys) or bool((np.diff(keys) <= 0).any()) or keys[0] < 1 or keys[-1] > num_samples:
        raise ValueError("numbers of key frames that do not rise")
    is_key = np.zeros(num_samples, np.bool_)
    is_key[keys - 1] = True
    return is_key


def _check_description(
    file: BinaryIO,
    box: Mp4Box,
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    is_key: NDArray[np.bool_],
) -> None:
    """Raise ValueError for a codec that may make other frames of the samples, and where the marks of key frames lie.

    FFmpeg reads those of H.264 from the pictures. The second marked one is looked at: whoever marks wrongly does it always.
    """
    entry = content_of(file, box, 2**13)
    if number_at(entry, 4) != 1 or entry[12:16] not in _CODECS:
        raise ValueError("several descriptions, or a codec that may make other frames")
    marked = np.flatnonzero(is_key)[1:2]
    if entry[12:16] in _H264 and len(marked):
        file.seek(int(begins[marked[0]]))
        if not is_key_picture(file.read(min(_HEAD_BYTES, int(sizes[marked[0]])))):
            raise ValueError("a mark of a key frame where FFmpeg sees none")


def _rows(file: BinaryIO, box: Mp4Box, width: int) -> NDArray[np.int64]:
    """(R, width) numbers of a table that begins with the number of its rows."""
    num_rows = number_at(content_of(file, box, 8), 4)
    return _numbers(file, box, 8, num_rows * width, ">u4").reshape(-1, width)


def _numbers(file: BinaryIO, box: Mp4Box, offset: int, count: int, dtype: str) -> NDArray[np.int64]:
    num_bytes = count * np.dtype(dtype).itemsize
    if num_bytes > _MAX_TABLE_BYTES or offset + num_bytes > box.end - box.begin:
        raise ValueError(f"a table of {num_bytes} bytes")
    content = content_of(file, Mp4Box(box.kind, box.begin + offset, box.end), num_bytes)
    if len(content) != num_bytes:
        raise ValueError("a table that was cut short")
    return np.frombuffer(content, dtype).astype(np.int64)


def _repeated(runs: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
    """(F,) values of runs of (number, value); they must be as many as the samples."""
    counts, values = runs.T
    if int(counts.sum()) != num_samples:
        raise ValueError(f"runs of {int(counts.sum())} samples where there are {num_samples}")
    return np.repeat(values, counts)
