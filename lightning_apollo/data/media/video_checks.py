"""Checks of an opened video against decoder errors, with corrected facts where the decoder is wrong.

torchcodec sorts the frames by their times and seeks among them. That is right for a clock that rises, in a file that begins
with a key frame. Otherwise the file is read as FFmpeg's command reads it, in order; what no reading mends is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_apollo.data.media.decoder import (
    DISCONTINUOUS,
    LEAP_SECONDS,
    DecoderInput,
    ShownFrame,
    container_metadata,
    frames_in_order,
    is_time,
    open_container,
    open_demuxer,
    video_stream,
    with_rising_times,
)
from lightning_apollo.data.media.display import display_of, read_tracks
from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.seekable import SeekableFilm, open_film
from lightning_apollo.data.storage.address import Readable
from lightning_apollo.structures import MediaError, MediaInfo

if TYPE_CHECKING:
    from torchcodec.decoders import ContainerMetadata, Demuxer  # pyright: ignore[reportPrivateImportUsage] (public, without __all__)

MAX_FRAME_PIXELS = 2**26  # of a video, 8192×8192: a decoder holds several frames at once
MAX_VIDEO_SECONDS = 31 * 24 * 3600  # a longer time is a mistake in the header

PALETTE_FORMATS = {"pal8"}  # torchcodec loses the palette at a seek before the first frame

_DEFAULT_FPS = 25.0  # FFmpeg's, for streams without times
_SURE_FRAMES = (
    1.5  # how far the number of frames may be from the rate times the duration before the times are looked at
)
_START_SLACK_SECONDS = 0.5  # by which frames may begin ahead of the first packet's time, for B-frames
_OVERLAP = 0.6  # of a frame's length: frames of a broadcast that follow closer come from two clocks
_ORDERED_FRAMES = 6  # the first group of B-frames ends within them
_STILL_END = {"ogg"}  # containers in which a picture that stays takes no packet
_UNPROMISING = (
    DISCONTINUOUS | _STILL_END
)  # containers whose length FFmpeg takes from their last packets, not from a header


class Timing(NamedTuple):
    """Time span of a video on the container's clock."""

    begin: float  # seconds
    duration: float  # seconds
    num_frames: int
    is_read_in_order: bool = False


def probe_video(path: str, file: Readable) -> MediaInfo:
    """Facts of a film that decoding needs. MediaError where it cannot be read or believed."""
    source = open_container(path, file)
    tracks = read_tracks(path, source)
    film = open_film(path, source, num_threads=1)
    if film is None:
        stream = video_stream(open_demuxer(path, source.file))
        index, metadata = stream.index, stream.metadata
    else:
        index, metadata = film.decoder.stream_index, film.metadata
    container = _container(source, film)
    _check_claims(path, container.duration_seconds_from_header, metadata.duration_seconds_from_header)
    stored = _stored_size(path, metadata)
    track = tracks[index] if index < len(tracks) else None
    display = display_of(path, track, metadata.rotation, float(metadata.pixel_aspect_ratio or 1))
    height, width = display.size(*stored)
    _check_size(path, height * width)
    fps = metadata.average_fps_from_header or _DEFAULT_FPS
    start = min(_starts(container), default=None)
    if film is None or (track is not None and not track.has_order and _is_out_of_order(path, source)):
        timing = _decoded(path, source, start, fps)
    else:
        timing = _timing(path, source, film, start, fps)
    if source.container in _STILL_END:
        timing = timing._replace(duration=max(timing.duration, float(metadata.duration_seconds_from_header or 0.0)))
    _check_timing(path, timing)
    return MediaInfo(
        path=path,
        modality="video",
        height=height,
        width=width,
        begin_seconds=timing.begin,
        duration_seconds=timing.duration,
        num_frames=timing.num_frames,
        fps=timing.num_frames / timing.duration,
        codec=metadata.codec or "unknown",
        rotation_degrees=display.rotation_degrees,
        clock_start_seconds=timing.begin if start is None else min(start, timing.begin),
        is_mirrored=display.is_mirrored,
        is_read_in_order=timing.is_read_in_order,
    )


def read_in_order(info: MediaInfo, source: DecoderInput, demuxer: Demuxer, num_threads: int) -> Iterator[ShownFrame]:
    """Every frame that `probe_video` has found, on the same clock."""
    metadata = video_stream(demuxer).metadata
    is_mended = info.is_read_in_order and metadata.pixel_format not in PALETTE_FORMATS
    frames = frames_in_order(info.path, demuxer, num_threads, is_lenient=is_mended)
    fps = metadata.average_fps_from_header or _DEFAULT_FPS
    return with_rising_times(frames, info.clock_start_seconds, fps, is_mended and source.container in DISCONTINUOUS)


def _container(source: DecoderInput, film: SeekableFilm | None) -> ContainerMetadata:
    if film is None:
        return container_metadata(source.file)
    # the public function opens the file again
    from torchcodec._core import get_container_metadata  # pyright: ignore[reportPrivateImportUsage]

    return get_container_metadata(film.decoder._decoder)


def _starts(container: ContainerMetadata) -> list[float]:
    """Start of every stream of pictures or sound, in seconds, where that is known."""
    streams = [stream for stream in container.streams if stream.media_type in ("video", "audio")]
    starts = [stream.begin_stream_seconds_from_header for stream in streams]
    return [seconds for seconds in starts if seconds is not None and is_time(seconds)]


def _is_out_of_order(path: str, source: DecoderInput) -> bool:
    """True if the first frames come in another order than their times say, as in a file that was made without times."""
    frames = frames_in_order(path, open_demuxer(path, source.file), 1, is_lenient=True)
    seconds = [frame.pts_seconds for frame in islice(frames, _ORDERED_FRAMES)]
    return any(after < before for before, after in pairwise(seconds))


def _check_claims(path: str, *claimed_seconds: float | None) -> None:
    for seconds in claimed_seconds:
        if seconds is not None and not 0 <= seconds <= MAX_VIDEO_SECONDS:
            raise MediaError(path, f"its header claims a length of {seconds:.3g} s: write the film anew")


def _stored_size(path: str, metadata: Any) -> tuple[int, int]:
    """Height and width before torchcodec turns them."""
    height, width = metadata.height, metadata.width
    if not (height and width):
        raise MediaError(path, "no frames in the video stream")
    _check_size(path, height * width)
    return (width, height) if turned_degrees(metadata) % 180 else (height, width)


def turned_degrees(metadata: Any) -> int:
    """Degrees by which torchcodec turns the stored frames, counter-clockwise: by quarters, mirrors left out."""
    rotation = metadata.rotation
    return 90 * round(rotation / 90) % 360 if is_time(rotation) else 0


def _check_size(path: str, num_pixels: int) -> None:
    if num_pixels > MAX_FRAME_PIXELS:
        raise MediaError(
            path, f"a video with frames of more than {MAX_FRAME_PIXELS} pixels, the limit: make them smaller"
        )


def _timing(path: str, source: DecoderInput, film: SeekableFilm, start: float | None, fps: float) -> Timing:
    """By the times of the packets where they can be believed, else by the frames."""
    metadata, begin, duration, num_frames = film.metadata, film.begin_seconds, film.duration_seconds, film.num_frames
    if not (num_frames and duration):
        raise MediaError(path, "no frames in the video stream")
    if begin is None or not is_time(begin) or not 0 < duration <= MAX_VIDEO_SECONDS:
        return _decoded(path, source, start, fps)
    timing = Timing(float(begin), float(duration), num_frames, metadata.pixel_format in PALETTE_FORMATS)
    promised = metadata.duration_seconds_from_header
    is_short = promised is not None and promised - duration > max(0.05 * promised, 2 * duration / num_frames)
    if is_short and source.container not in _UNPROMISING:
        raise MediaError(path, f"truncated: {duration:.2f} s of video where the header promises {promised:.2f} s")
    is_odd = abs(num_frames - fps * duration) > _SURE_FRAMES
    begins_late = not film.begins_with_key_frame
    falls = start is not None and start - begin > _START_SLACK_SECONDS and not begins_late
    if source.container == "mpeg":  # its packets are too rarely timed for a closer look
        falls |= is_odd
    if falls and source.container in DISCONTINUOUS:
        return _decoded(path, source, start, fps)
    return _looked_at_closer(path, source, timing, start, fps, film.table) if is_odd or begins_late else timing


def _looked_at_closer(
    path: str, source: DecoderInput, timing: Timing, start: float | None, fps: float, table: FrameTable | None
) -> Timing:
    """The same timing from the first frame that can be decoded; the decoded frames' own where the clock does not rise."""
    seconds = _seconds(path, source) if table is None else torch.from_numpy(table.seconds)  # (F,) sorted
    steps = seconds.diff()
    if source.container == "mpegts":
        is_broken = bool(((steps < _OVERLAP / fps) | (steps > LEAP_SECONDS)).any())
    else:
        is_broken = source.container != "mpeg" and bool((steps <= 0).any())
    first = next(frames_in_order(path, open_demuxer(path, source.file), 1, is_lenient=False), None)
    if first is None:
        raise MediaError(path, "corrupt: no frame can be decoded at all")
    if is_broken or not is_time(first.pts_seconds):
        return _decoded(path, source, start, fps)
    lost = int((seconds < first.pts_seconds - 1e-6).sum())
    begin = max(timing.begin, first.pts_seconds)
    duration = timing.begin + timing.duration - begin
    return timing._replace(begin=begin, duration=duration, num_frames=max(1, timing.num_frames - lost))


def _seconds(path: str, source: DecoderInput) -> Tensor:
    return video_stream(open_demuxer(path, source.file)).scan().pts_seconds


def _decoded(path: str, source: DecoderInput, start: float | None, fps: float) -> Timing:
    """By decoding all of it."""
    frames = frames_in_order(path, open_demuxer(path, source.file), 1, is_lenient=True)
    shown = with_rising_times(frames, start or 0.0, fps, source.container in DISCONTINUOUS)
    first = next(shown, None)
    if first is None:
        raise MediaError(path, "no frame can be decoded")
    num_frames, end = 1, first.end
    for frame in shown:
        num_frames, end = num_frames + 1, frame.end
    return Timing(first.begin, end - first.begin, num_frames, is_read_in_order=True)


def _check_timing(path: str, timing: Timing) -> None:
    if not (is_time(timing.begin) and 0 < timing.duration <= MAX_VIDEO_SECONDS):
        raise MediaError(
            path,
            f"its frames play from {timing.begin:.3g} s for {timing.duration:.3g} s, which no film does: write it anew",
        )
