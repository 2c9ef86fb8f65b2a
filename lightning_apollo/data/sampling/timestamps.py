"""Moments of a video to show: arithmetic over seconds, no pixels. F frames.

Two clocks: a player counts from where the file begins, its container from any time. Annotations are on the player's,
files are read on the container's; `MediaInfo.clock_start_seconds` lies between them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightning_apollo.data.sampling.clips import paper_starts, released_starts, whole_clips
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.segment import segment_of, video_end
from lightning_apollo.structures import MediaInfo

# Seconds kept from the end of the video, where no frame is played any more. Longer than the rounding of any time base
# in use (half a tick of MPEG's 90 kHz is 5.6e-6), far shorter than a frame.
END_MARGIN_SECONDS = 1e-4

# `decode` takes a frame that begins up to 1e-3 s after a moment for one that plays. This much before the end of a tick,
# no frame that begins with the next tick does, however coarse the file's time base (Matroska's is 1e-3 s).
_TICK_MARGIN_SECONDS = 1.75e-3
_EXACT_SECONDS = 1e-6  # finer than any time base


def for_video(config: SamplingConfig, fps: float | None, max_frames: int | None) -> SamplingConfig:
    """The configuration with the rate and the most frames that an annotation gives to one video; None: as it is."""
    if fps is not None:
        config = replace(config, fps=fps, kind="fps" if config.kind == "uniform" else config.kind)
    if max_frames is not None:
        max_clips = min(config.max_clips, max(1, max_frames // config.clip_frames))
        config = replace(config, max_frames=max_frames, max_clips=max_clips)
    return config


def sample_timestamps(
    info: MediaInfo,
    config: SamplingConfig,
    begin_seconds: float | None = None,
    end_seconds: float | None = None,
    tokens_per_clip: int | None = None,
) -> Tensor:
    """Moments to decode: (F,) float64 seconds on the container's clock, rising, all while a frame is playing.

    `begin_seconds` and `end_seconds` cut a segment out, in seconds from the start of the video as a player shows it.
    "fps" takes begin + k / fps, or with phase "end" the last moment before begin + (k + 1) / fps, for whole ticks alone;
    where that passes max_frames, evenly spaced members of that grid, the first and the last one included (VideoLLaMA 3,
    `load_video`). "uniform" takes the middles of max_frames equal parts, fewer where the segment has fewer frames.
    An image has one moment.

    `tokens_per_clip` is for models that take clips: F is a whole number of clips then, the last moment being repeated
    to fill the last one. "clips" takes frames 1 / fps apart, clip after clip; the last clip may begin before the one
    ahead of it ends, so that the list steps back there. A segment shorter than a clip is one clip. "uniform" takes
    all of max_frames where those are whole clips, however few frames there are: every video has as many clips.
    """
    begin, end = segment_of(info, begin_seconds, end_seconds)
    duration = max(0.0, min(end, video_end(info) - END_MARGIN_SECONDS) - begin)
    if config.kind == "clips":
        offsets = _clip_offsets(end - begin, config, tokens_per_clip).clamp(max=duration)
    elif config.kind == "fps" and config.phase == "end":
        offsets = _last_moments(info, config, begin_seconds, end_seconds) - begin
    elif config.kind == "fps":
        offsets = _fps_offsets(duration, config.fps, config.max_frames)
    else:
        num_frames = config.max_frames
        if tokens_per_clip is None or num_frames % config.clip_frames:
            num_frames = min(num_frames, _frames_in(info, duration))
        offsets = (torch.arange(num_frames, dtype=torch.float64) + 0.5) * (duration / num_frames)
    if tokens_per_clip is not None:
        offsets = whole_clips(offsets, config.clip_frames)
    return begin + offsets


def tick_seconds(
    info: MediaInfo, config: SamplingConfig, begin_seconds: float | None = None, end_seconds: float | None = None
) -> Tensor | None:
    """(F,) float64: for phase "end", the beginnings of the ticks whose last moments `sample_timestamps` takes.

    They are on the container's clock and stand in the prompt in the place of the frames' own times. None where those do.
    """
    if config.kind != "fps" or config.phase == "start":
        return None
    begin, end = segment_of(info, begin_seconds, end_seconds)
    return begin + _whole_ticks(info, config, begin, end, begin_seconds is None)[1] / config.fps


def frames_in_segment(info: MediaInfo, begin_seconds: float | None, end_seconds: float | None) -> int:
    """Approximate number of frames in a segment; at least one, and all of them without a cut."""
    begin, end = segment_of(info, begin_seconds, end_seconds)
    return _frames_in(info, end - begin)


def single_frame(timestamps: Tensor, seed: int, sample_id: str) -> Tensor:
    """One of the (F,) moments, (1,): the same one for the same seed and sample in every process."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    index = int.from_bytes(digest, "big") % len(timestamps)
    return timestamps[index : index + 1]


def _thinned(num_ticks: int, max_frames: int) -> Tensor:
    """(F,) int64: numbers of ticks, evenly spaced where there are more than max_frames, both ends included."""
    return torch.from_numpy(np.linspace(0, num_ticks - 1, min(num_ticks, max_frames), dtype=np.int64))


def _fps_offsets(duration: float, fps: float, max_frames: int) -> Tensor:
    """(F,) float64 seconds k / fps below `duration`, thinned out evenly to max_frames; at least the first."""
    return _thinned(max(1, math.ceil(duration * fps - _EXACT_SECONDS)), max_frames).to(torch.float64) / fps


def _whole_ticks(
    info: MediaInfo, config: SamplingConfig, begin: float, end: float, is_from_start: bool
) -> tuple[float, Tensor]:
    """Start of tick 0, and (F,) float64 numbers of the whole ticks up to `end`; tick 0 where there is none.

    FFmpeg's filter `fps` with round=down, which the released loader is made of: ticks count from where a player does, or
    from a cut, the first is the one in which the first frame begins, and what is left after the last whole tick goes.
    """
    origin = info.clock_start_seconds if is_from_start else begin
    first, last = (math.floor((seconds - origin) * config.fps + _EXACT_SECONDS) for seconds in (begin, end))
    ticks = _thinned(max(1, last - first), config.max_frames).to(torch.float64)
    return origin + first / config.fps, ticks


def _last_moments(
    info: MediaInfo, config: SamplingConfig, begin_seconds: float | None, end_seconds: float | None
) -> Tensor:
    """(F,) float64 seconds on the container's clock: at which `decode` shows the last frame that begins in each tick."""
    begin, end = segment_of(info, begin_seconds, end_seconds)
    origin, ticks = _whole_ticks(info, config, begin, end, begin_seconds is None)
    limits = (origin + (ticks + 1) / config.fps).clamp(max=end)
    moments = limits - _TICK_MARGIN_SECONDS
    rate = round(1.001 * (info.fps or 0.0)) / 1.001
    if info.fps is not None and abs(info.fps - rate) < abs(info.fps - round(info.fps)):
        # NTSC's: there a frame may begin a hair before a tick ends, and is asked for at its own begin
        numbers = torch.ceil((limits - info.begin_seconds - _EXACT_SECONDS) * rate) - 1
        moments = moments.maximum(info.begin_seconds + numbers / rate)
    return moments.clamp(min=begin)


def _clip_offsets(duration: float, config: SamplingConfig, tokens_per_clip: int | None) -> Tensor:
    """(F,) float64 seconds, clip after clip; for less than one clip, those of its moments that are played.

    `duration` goes to the very end, without a margin: it would move the last clip ahead of a frame's begin.
    """
    if tokens_per_clip is None:
        raise ValueError('sampling kind is "clips": how many tokens a clip becomes must be given')
    length = config.clip_frames / config.fps
    if duration < length - END_MARGIN_SECONDS:
        return _fps_offsets(duration, config.fps, config.clip_frames)
    if config.placement == "paper":
        starts = paper_starts(duration, length, config.max_clips)
    else:
        starts = released_starts(duration, length, config.max_clips, config.context_tokens, tokens_per_clip)
    inside = torch.arange(config.clip_frames, dtype=torch.float64) / config.fps
    return (starts[:, None] + inside).flatten()  # (K, N) -> (F,)


def _frames_in(info: MediaInfo, duration: float) -> int:
    """Approximate number of frames during `duration` seconds; at least one."""
    if info.duration_seconds <= 0:
        return 1
    return max(1, min(info.num_frames, round(info.num_frames * duration / info.duration_seconds)))
