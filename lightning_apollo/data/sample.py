"""Which moments of a video are looked at: arithmetic over seconds, no pixels. F frames."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_apollo.structures import MediaError, MediaInfo

# Seconds kept from the end of the video, where no frame is played any more. Longer than the rounding of any time base
# in use (half a tick of MPEG's 90 kHz is 5.6e-6), far shorter than a frame.
END_MARGIN_SECONDS = 1e-4


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults: VideoLLaMA 3, one frame a second and at most 180 of them."""

    kind: str = "fps"  # "fps": one frame every 1/fps seconds · "uniform": max_frames over the whole video
    fps: float = 1.0  # frames a second of playing time, for kind "fps"
    max_frames: int = 180  # frames of one video, at most

    def __post_init__(self) -> None:
        if self.kind not in ("fps", "uniform"):
            raise ValueError(f'sampling kind is "{self.kind}": choose "fps" or "uniform"')
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"sampling fps is {self.fps}: give frames per second above 0")
        if self.max_frames < 1:
            raise ValueError(f"sampling max_frames is {self.max_frames}: at least one frame is needed")


def sample_timestamps(
    info: MediaInfo,
    config: SamplingConfig,
    begin_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Tensor:
    """The moments to look at: (F,) float64 seconds on the container's clock, rising, all while a frame is playing.

    `begin_seconds` and `end_seconds` cut a segment out, on the same clock. "fps" takes begin + k / fps; where that
    passes max_frames, evenly spaced members of that grid, the first and the last one included (VideoLLaMA 3,
    `load_video`). "uniform" takes the middles of max_frames equal parts, fewer where the segment has fewer frames.
    An image has one moment.
    """
    begin, duration = _segment(info, begin_seconds, end_seconds)
    if config.kind == "fps":
        offsets = _fps_offsets(duration, config.fps, config.max_frames)
    else:
        num_frames = min(config.max_frames, _frames_in(info, duration))
        offsets = (torch.arange(num_frames, dtype=torch.float64) + 0.5) * (duration / num_frames)
    return begin + offsets


def single_frame(timestamps: Tensor, seed: int, sample_id: str) -> Tensor:
    """One of the (F,) moments, (1,): the same one for the same seed and sample in every process."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    index = int.from_bytes(digest, "big") % len(timestamps)
    return timestamps[index : index + 1]


def _segment(info: MediaInfo, begin_seconds: float | None, end_seconds: float | None) -> tuple[float, float]:
    """Begin and length of the part to sample from, without the margin at the video's end."""
    video_end = info.begin_seconds + info.duration_seconds
    begin = info.begin_seconds if begin_seconds is None else max(begin_seconds, info.begin_seconds)
    end = video_end if end_seconds is None else min(end_seconds, video_end)
    is_whole = begin_seconds is None and end_seconds is None
    if not is_whole and not begin < end:
        raise MediaError(
            info.path,
            f"segment from {begin_seconds} to {end_seconds} s is outside the video, "
            f"which plays from {info.begin_seconds:.2f} to {video_end:.2f} s",
        )
    return begin, max(0.0, min(end, video_end - END_MARGIN_SECONDS) - begin)


def _fps_offsets(duration: float, fps: float, max_frames: int) -> Tensor:
    """(F,) float64 seconds k / fps below `duration`, thinned out evenly to max_frames; at least the first."""
    num_ticks = max(1, math.ceil(duration * fps))
    if num_ticks <= max_frames:
        ticks = torch.arange(num_ticks)
    else:
        ticks = torch.arange(max_frames) * (num_ticks - 1) // max(1, max_frames - 1)
    return ticks.to(torch.float64) / fps


def _frames_in(info: MediaInfo, duration: float) -> int:
    """About how many frames play during `duration` seconds; at least one."""
    if info.duration_seconds <= 0:
        return 1
    return max(1, min(info.num_frames, round(info.num_frames * duration / info.duration_seconds)))
