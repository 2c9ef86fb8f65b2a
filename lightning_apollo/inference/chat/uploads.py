"""Uploads to the web page: accepted types and their folder."""

import os
from pathlib import Path

from lightning_apollo.data.media.reader import MediaReader
from lightning_apollo.data.media.signatures import container_of, is_picture, read_head
from lightning_apollo.structures import MediaError, MediaInfo

MAX_FRAME_PIXELS = 2**25  # of a video, 8K is just below; pictures have the limit of data/media/picture.py
MAX_VIDEO_SECONDS = 24 * 3600


def is_upload(path: str, folder: Path) -> bool:
    """True if the path is a file that lies below `folder` when all links are followed; `folder` has none.

    No other address of data/storage/address.py passes: an object, or a member of a shard.
    """
    if "\0" in path:
        return False
    real = Path(os.path.realpath(path))
    return real.is_file() and real.is_relative_to(folder)


def is_known_media(path: Path) -> bool:
    """True if the file begins like one of the containers and pictures that the page takes."""
    with path.open("rb") as file:
        head = read_head(file)
    return is_picture(head) or container_of(head) is not None


def probe_upload(path: str, folder: Path, reader: MediaReader) -> MediaInfo:
    """Header facts of an uploaded file. MediaError, by the name of the file alone, where it is not to be shown."""
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
