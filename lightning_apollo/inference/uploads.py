"""Files that strangers hand to the web page: what they may be, and where they may lie.

FFmpeg opens more than containers: a playlist (HLS, DASH, concat) names other files and addresses, and would show what lies
elsewhere on this machine. So only what begins like a container or a picture reaches it.
"""

import os
import re
from pathlib import Path

from lightning_apollo.data.reader import MediaReader
from lightning_apollo.structures import MediaError, MediaInfo

MAX_FRAME_PIXELS = 2**25  # of a video, 8K is just below; pictures have the limit of data/picture.py
MAX_VIDEO_SECONDS = 24 * 3600

_KNOWN = re.compile(
    rb"""
    .{4}(ftyp|moov|mdat|wide|free|skip)        # MP4, MOV
    | \x1a\x45\xdf\xa3                         # Matroska, WebM
    | RIFF.{4}(AVI\x20|WEBP)
    | \x47(.{187}\x47){3} | .{4}\x47(.{191}\x47){3}  # MPEG-TS: the sync bytes of four packets, M2TS
    | \x00\x00\x01\xba                         # MPEG-PS
    | FLV\x01 | OggS
    | \x30\x26\xb2\x75\x8e\x66\xcf\x11         # ASF, WMV
    | \x89PNG | \xff\xd8\xff | GIF8 | BM       # pictures; \xff\xd8\xff is JPEG, BM is BMP
    """,
    re.DOTALL | re.VERBOSE,
)
_HEAD_BYTES = 1024


def is_upload(path: str, folder: Path) -> bool:
    """Whether the path is a file that lies below `folder` when all links are followed; `folder` has none.

    No other address of data/storage.py passes: an object, or a member of a shard.
    """
    if "\0" in path:
        return False
    real = Path(os.path.realpath(path))
    return real.is_file() and real.is_relative_to(folder)


def is_known_media(path: Path) -> bool:
    """Whether the file begins like one of the containers and pictures that the page takes."""
    with path.open("rb") as file:
        return _KNOWN.match(file.read(_HEAD_BYTES)) is not None


def probe_upload(path: str, folder: Path, reader: MediaReader) -> MediaInfo:
    """What the header of an uploaded file says. MediaError, by the name of the file alone, where it is not to be shown."""
    name = Path(path).name
    if not is_upload(path, folder):
        raise MediaError(name, "no file that was uploaded here")
    if not is_known_media(Path(path)):
        raise MediaError(
            name, "neither a video (MP4, MOV, MKV, WebM, AVI, MPEG) nor a picture (PNG, JPEG, WebP, GIF, BMP)"
        )
    try:
        info = reader.probe(path, None)
    except MediaError as error:
        raise MediaError(name, error.reason) from error
    if info.fps is not None and info.height * info.width > MAX_FRAME_PIXELS:
        raise MediaError(name, f"frames of {info.width}×{info.height} pixels, above the limit of 8K: make them smaller")
    if info.duration_seconds > MAX_VIDEO_SECONDS:
        raise MediaError(name, f"{info.duration_seconds / 3600:.0f} hours long, above the limit of 24: cut it")
    return info
