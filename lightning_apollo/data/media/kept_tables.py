"""Frame tables from a folder of kept ones, the index of the file or a scan of all its packets.

Only long films are scanned for one, and only tables of many frames are kept: for a short clip the index is read as fast as a
kept table, and a file of one table takes a block of the disk.
"""

from __future__ import annotations

import hashlib
import io
import os

from lightning_apollo.data.media.decoder import DecoderInput, open_demuxer, reading, video_stream
from lightning_apollo.data.media.frame_table import VERSION, FrameTable, pack_table, unpack_table
from lightning_apollo.data.media.mp4_table import read_mp4_table
from lightning_apollo.data.storage.address import cache_folder, file_state, is_object
from lightning_apollo.data.storage.bounded_folder import BoundedFolder

MIN_KEPT_FRAMES = 4096  # where a block of 4 KiB is a byte a frame
MAX_FRAME_BYTES = 3  # of a table on the disk; one that takes more is not kept
MIN_SCANNED_BYTES = 16 * 2**20  # of a file; a shorter one is read by the decoder at each open
MAX_KEPT_BYTES = 2**30  # of all tables together

_MIN_BYTES = 2**20  # of a file whose table may be kept; MIN_SCANNED_BYTES in a store, where its state costs a request
_SCANNED = {"mp4", "matroska"}  # containers in which FFmpeg finds a key frame by its time without a scan


def frame_table(path: str, source: DecoderInput) -> FrameTable | None:
    """The table of the file's film; None where the decoder has to read all packets itself."""
    if source.container not in _SCANNED:
        return None
    with reading(path, source.file) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        name = _name(path) if num_bytes >= (MIN_SCANNED_BYTES if is_object(path) else _MIN_BYTES) else None
        table = None if name is None else _kept(name)
        if table is not None:
            return table
        if source.container == "mp4":
            table = read_mp4_table(file)
    if table is None and num_bytes >= MIN_SCANNED_BYTES:
        table = _scanned(path, source)
    if table is not None and name is not None and _name(path) == name:  # it was not written to in the meantime
        _keep(name, table)
    return table


def _scanned(path: str, source: DecoderInput) -> FrameTable | None:
    """By reading all packets; None where their times do not rise."""
    stream = video_stream(open_demuxer(path, source.file))
    try:
        found = stream.scan()
    except RuntimeError:  # the decoder, which reads the same next, says what is wrong
        return None
    ticks, ends = found._pts.numpy(), (found._pts + found._duration).numpy()
    try:
        base = (found._time_base_num, found._time_base_den)
        return FrameTable(stream.index, base, ticks, found.is_key_frame.numpy(), int(ends.max(initial=0)))
    except ValueError:
        return None


def _folder() -> BoundedFolder:
    return BoundedFolder(cache_folder() / "frame_tables", MAX_KEPT_BYTES)


def _name(path: str) -> str:
    """Key of the file as it is now."""
    place = path if is_object(path) else os.path.abspath(path)
    return hashlib.sha256(repr((VERSION, place, *file_state(path))).encode()).hexdigest()


def _kept(name: str) -> FrameTable | None:
    """The table that was kept under a name; None where there is none, or not a whole one."""
    try:
        content = _folder().read(name)
        return None if content is None else unpack_table(content)
    except (OSError, ValueError):  # a table is made anew wherever it cannot be read
        return None


def _keep(name: str, table: FrameTable) -> None:
    content = pack_table(table)
    if len(table) < MIN_KEPT_FRAMES or len(content) > MAX_FRAME_BYTES * len(table):
        return
    try:
        _folder().write(name, [content])
    except OSError:  # a folder that cannot be written to costs time at the next open, and nothing else
        return
