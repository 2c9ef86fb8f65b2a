"""Files to frames: what a header says, and pixels at their target size with the container's own times.

A path may be any address of storage.py. What a file is, its content decides, never its extension. F frames · H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lightning_apollo.data.frame_list import probe_frames, read_frames
from lightning_apollo.data.picture import load_picture, not_a_picture, probe_picture
from lightning_apollo.data.storage import Readable, frame_list, open_media
from lightning_apollo.machine.video_libraries import load_torchcodec
from lightning_apollo.structures import Frames, MediaError, MediaInfo, Modality

if TYPE_CHECKING:  # at run time inside the functions, so that `doctor` works where torchcodec cannot load
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage] (public, without __all__)

MAX_FRAME_PIXELS = 2**26  # of a video, 8192×8192: a decoder holds several frames at once

_CHUNK_BYTES = 8 * 2**20  # frames held at native size at one time, while they wait to be resized
_CLOCK_SECONDS = 1e-3  # containers round times, to a millisecond at worst: a frame due within it counts as playing
_END_SLACK_SECONDS = 0.5  # how far outside the frames that can be decoded a moment may lie, see _read_in_order


def probe(path: Path | str, modality: Modality | None = None) -> MediaInfo:
    """What the file says about itself; no pixel is decoded. `fps` is None exactly where it is read as a still picture.

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
    if not isinstance(file, str):
        file.seek(0)  # Pillow has read the beginning
    return _probe_video(address, file)


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
    of still pictures. A frame that cannot be decoded is a MediaError for
    the item: no hole, no other frame in its place.
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
    frames = _seek_and_read(info, timestamps, size, num_threads)
    return _read_in_order(info, timestamps, size, num_threads) if frames is None else frames


def load_image(path: Path, size: tuple[int, int]) -> Frames:
    """The picture, or the first frame of an animated one, resized to `size` (height, width); one frame at time 0."""
    return decode(probe(path, "image"), torch.zeros(1), size)


def _open_video(path: str, file: Readable, num_threads: int) -> VideoDecoder:
    load_torchcodec()
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage] (public, no __all__)

    try:
        return VideoDecoder(file, seek_mode="exact", num_ffmpeg_threads=num_threads)
    except ValueError:
        raise MediaError(path, "no video stream") from None
    except RuntimeError as error:
        raise MediaError(path, "not a media file that FFmpeg can open") from error


def _probe_video(path: str, file: Readable) -> MediaInfo:
    """Exact mode has read the time of every packet, so that counts and bounds are the content's, not the header's."""
    metadata = _open_video(path, file, num_threads=1).metadata
    duration, promised = metadata.duration_seconds, metadata.duration_seconds_from_header
    height, width, fps = metadata.height, metadata.width, metadata.average_fps
    if not (metadata.num_frames and duration and height and width and fps):
        raise MediaError(path, "no frames in the video stream")
    if height * width > MAX_FRAME_PIXELS:
        raise MediaError(
            path, f"a video with frames of more than {MAX_FRAME_PIXELS} pixels, the limit: make them smaller"
        )
    if promised is not None and promised - duration > max(0.05 * promised, 2 / fps):
        raise MediaError(path, f"truncated: {duration:.2f} s of video where the header promises {promised:.2f} s")
    return MediaInfo(
        path=path,
        modality="video",
        height=height,
        width=width,
        begin_seconds=float(metadata.begin_stream_seconds or 0.0),
        duration_seconds=float(duration),
        num_frames=metadata.num_frames,
        fps=float(fps),
        codec=metadata.codec or "unknown",
        rotation_degrees=round(metadata.rotation or 0.0) % 360,
        clock_start_seconds=float(metadata.begin_stream_seconds or 0.0),
    )


def _seek_and_read(info: MediaInfo, timestamps: Tensor, size: tuple[int, int], num_threads: int) -> Frames | None:
    """The frames; None where one cannot be decoded or the seek passed it, as FFmpeg's do in MPEG-TS with B-frames."""
    decoder = _open_video(info.path, open_media(info.path), num_threads)
    due = timestamps + _CLOCK_SECONDS
    due = torch.where(due < info.begin_seconds + info.duration_seconds, due, timestamps)
    chunk = max(1, _CHUNK_BYTES // (3 * info.height * info.width))  # frames
    pixels = torch.empty(len(timestamps), 3, *size, dtype=torch.uint8)
    pts_seconds = torch.empty(len(timestamps), dtype=torch.float64)
    for first in range(0, len(timestamps), chunk):
        part = slice(first, first + chunk)
        try:
            batch = decoder.get_frames_played_at(due[part])
        except RuntimeError:
            return None
        if bool((batch.pts_seconds > due[part] + _CLOCK_SECONDS).any()):
            return None
        pixels[part] = _resize(batch.data, size)
        pts_seconds[part] = batch.pts_seconds
    return Frames(pixels=pixels, pts_seconds=pts_seconds)


def _read_in_order(info: MediaInfo, timestamps: Tensor, size: tuple[int, int], num_threads: int) -> Frames:
    """The same frames without a seek, front to back: the last one that begins at or before each moment.

    Just before the first frame the first one plays: AVI with B-frames stores no presentation times, and its decoder's
    clock runs a few frames late.
    """
    stream = _stream(info.path, num_threads)
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
        resized = _resize(frame.pixels, size) if resized is None else resized
        pixels[index], pts_seconds[index] = resized[0], frame.begin
    return Frames(pixels=pixels, pts_seconds=pts_seconds)


class _Shown(NamedTuple):
    pixels: Tensor  # (1, 3, H, W) uint8 at native size
    begin: float  # seconds
    end: float


def _stream(path: str, num_threads: int) -> Iterator[_Shown]:
    """Every frame in order, until the stream ends or its times stop rising."""
    from torchcodec._core.ops import get_next_frame  # torchcodec's public methods all seek before they read

    decoder = _open_video(path, open_media(path), num_threads)
    last = -math.inf
    while True:
        try:
            pixels, begin, duration = get_next_frame(decoder._decoder)
        except IndexError:  # the end
            return
        except RuntimeError as error:
            reason = f"after {last:.2f} s" if last > -math.inf else "at all"
            raise MediaError(path, f"corrupt: no frame can be decoded {reason}") from error
        if begin.item() <= last:
            return
        last = begin.item()
        yield _Shown(pixels=pixels.unsqueeze(0), begin=last, end=last + duration.item())


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, 3, H, W) uint8 at `size`, as transformers' VideoLLaMA 3 processors resize."""
    return resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
