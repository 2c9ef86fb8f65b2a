"""Video and image files to frames: headers, resized pixels and presentation times.

A path may be any address of storage/address.py. What a file is, its content decides, never its extension. F frames · H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lightning_apollo.data.media.decoder import ShownFrame, open_container, open_demuxer, video_stream
from lightning_apollo.data.media.display import upright
from lightning_apollo.data.media.frame_list import probe_frames, read_frames
from lightning_apollo.data.media.picture import load_picture, not_a_picture, probe_picture
from lightning_apollo.data.media.seekable import open_film
from lightning_apollo.data.media.video_checks import MAX_FRAME_PIXELS, probe_video, read_in_order, turned_degrees
from lightning_apollo.data.storage.address import frame_list, open_media
from lightning_apollo.structures import Frames, MediaError, MediaInfo, Modality

__all__ = ["MAX_FRAME_PIXELS", "decode", "load_image", "probe"]

_CHUNK_BYTES = 8 * 2**20  # frames held at native size at one time, while they wait to be resized
_CLOCK_SECONDS = 1e-3  # containers round times, to a millisecond at worst: a frame due within it counts as playing
_END_SLACK_SECONDS = 0.5  # how far outside the frames that can be decoded a moment may lie, see _read_in_order


def probe(path: Path | str, modality: Modality | None = None) -> MediaInfo:
    """Header facts of the file. `fps` is None exactly where it is read as a still picture.

    Frames are decoded only where the header cannot be believed: the first of some films, all of those whose clock is of no
    use (video_checks.py).

    `modality` is what the annotation calls it, None for what it is. An animated GIF called an image is its first
    frame; a still picture called a video is a video of one frame. A film called an image is a MediaError.
    """
    address = str(path)
    frames = frame_list(address)
    if frames is not None:
        return probe_frames(address, frames)
    file = open_media(address)
    picture = probe_picture(address, modality, file)
    if picture is not None:
        return picture
    if modality == "image":
        raise not_a_picture(address, file)
    return probe_video(address, file)


def decode(
    media: MediaInfo | Path,
    timestamps: Tensor,
    size: tuple[int, int],
    num_threads: int = 1,
    background: str = "white",
) -> Frames:
    """The frames that play at `timestamps` (F,) seconds, resized to `size` (height, width), with their own times.

    Timestamps rise, repeats allowed, and lie in [begin, end) of the video; a still picture takes any. The resize is
    that of transformers' VideoLLaMA 3 processors: torchvision's bicubic with antialias on uint8. Frames pass through
    in chunks, so that memory does not grow with F at native size. `background` is the colour behind transparent pixels
    of still pictures. A frame that cannot be decoded is a MediaError for the item: no hole, no other frame in its place.
    """
    info = media if isinstance(media, MediaInfo) else probe(media)
    if info.fps is None:
        pixels = _resize(load_picture(info.path, background), size).repeat(len(timestamps), 1, 1, 1)
        return Frames(pixels=pixels, pts_seconds=torch.zeros(len(timestamps), dtype=torch.float64))
    timestamps = timestamps.to(torch.float64)
    end = info.begin_seconds + info.duration_seconds
    is_inside = (timestamps >= info.begin_seconds) & (timestamps < end)
    if not bool(is_inside.all()) or bool((timestamps.diff() < 0).any()):
        raise ValueError(f"{info.path}: timestamps must rise inside [{info.begin_seconds}, {end}) s")
    pictures = frame_list(info.path)
    if pictures is not None:
        return read_frames(info.path, pictures, timestamps, lambda path: _resize(load_picture(path, background), size))
    frames = None if info.is_read_in_order else _seek_and_read(info, timestamps, size, num_threads)
    return _read_in_order(info, timestamps, size, num_threads) if frames is None else frames


def load_image(path: Path, size: tuple[int, int]) -> Frames:
    """The picture, or the first frame of an animated one, resized to `size` (height, width); one frame at time 0."""
    return decode(probe(path, "image"), torch.zeros(1), size)


def _seek_and_read(info: MediaInfo, timestamps: Tensor, size: tuple[int, int], num_threads: int) -> Frames | None:
    """The frames; None where one cannot be decoded or the seek passed it, as FFmpeg's do in MPEG-TS with B-frames."""
    film = open_film(info.path, open_container(info.path), num_threads)
    if film is None:
        return None
    turned = turned_degrees(film.metadata)
    due = timestamps + _CLOCK_SECONDS
    due = torch.where(due < info.begin_seconds + info.duration_seconds, due, timestamps)
    chunk = max(1, _CHUNK_BYTES // (3 * info.height * info.width))  # frames
    pixels = torch.empty(len(timestamps), 3, *size, dtype=torch.uint8)
    pts_seconds = torch.empty(len(timestamps), dtype=torch.float64)
    for first in range(0, len(timestamps), chunk):
        part = slice(first, first + chunk)
        try:
            batch = film.decoder.get_frames_played_at(due[part])
        except RuntimeError:
            return None
        if bool((batch.pts_seconds > due[part] + _CLOCK_SECONDS).any()):
            return None
        pixels[part] = _resize(upright(batch.data, info.rotation_degrees, info.is_mirrored, turned), size)
        pts_seconds[part] = batch.pts_seconds
    return Frames(pixels=pixels, pts_seconds=pts_seconds)


def _read_in_order(info: MediaInfo, timestamps: Tensor, size: tuple[int, int], num_threads: int) -> Frames:
    """The same frames without a seek, front to back: the last one that begins at or before each moment.

    Just before the first frame the first one plays: AVI with B-frames stores no presentation times, and its decoder's
    clock runs a few frames late.
    """
    stream, to_pixels = _open_in_order(info, num_threads)
    pixels = torch.empty(len(timestamps), 3, *size, dtype=torch.uint8)
    pts_seconds = torch.empty(len(timestamps), dtype=torch.float64)
    frame, following = next(stream, None), next(stream, None)
    resized = None
    for index, moment in enumerate(timestamps.tolist()):
        while following is not None and following.begin <= moment + _CLOCK_SECONDS:
            frame, following, resized = following, next(stream, None), None
        if frame is None or frame.begin > moment + _END_SLACK_SECONDS:
            raise MediaError(info.path, f"corrupt: no frame can be decoded at {moment:.2f} s")
        if following is None and frame.end < moment - _END_SLACK_SECONDS:
            raise MediaError(info.path, f"corrupt: no frame can be decoded after {frame.begin:.2f} s")
        resized = _resize(to_pixels(frame), size) if resized is None else resized
        pixels[index], pts_seconds[index] = resized[0], frame.begin
    return Frames(pixels=pixels, pts_seconds=pts_seconds)


def _open_in_order(info: MediaInfo, num_threads: int) -> tuple[Iterator[ShownFrame], Callable[[ShownFrame], Tensor]]:
    """Every frame in order, and what makes (1, 3, H, W) uint8 of one, upright."""
    from torchcodec.decoders import ColorConverter  # pyright: ignore[reportPrivateImportUsage] (public, no __all__)

    source = open_container(info.path)
    demuxer = open_demuxer(info.path, source.file)
    metadata = video_stream(demuxer).metadata
    frames, turned = read_in_order(info, source, demuxer, num_threads), turned_degrees(metadata)
    converter = ColorConverter("cpu")

    def to_pixels(frame: ShownFrame) -> Tensor:
        pixels = converter.convert(frame.raw).data.unsqueeze(0)
        return upright(pixels, info.rotation_degrees, info.is_mirrored, turned)

    return frames, to_pixels


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, 3, H, W) uint8 at `size`, as transformers' VideoLLaMA 3 processors resize."""
    return resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
