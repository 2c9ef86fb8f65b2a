"""Positions and times of clips in a video: arithmetic over seconds, no pixels.

A clip is N frames at one rate, N / fps seconds long. K clips of an item · F = K·N moments, clip after clip.
Apollo (arXiv 2412.10360 §4.1, C.1), 5 seconds in clips of 2:

    |0    2|2    4|
             |3    5|      the last one moves back, so that it ends with the video
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELEASED_SHARE = 0.65  # of the context, which the clips of a long video may fill (Apollo's released mm_utils.py)

# Seconds by which a video may miss a whole number of clips: 8.00001 s are four clips of 2 s and not five, and in 3.99999 s
# the second one begins at 2 s all the same, not a hair before, where the frame ahead of it still plays.
_ROUNDING_SECONDS = 1e-4


def paper_starts(duration: float, length: float, max_clips: int) -> Tensor:
    """(K,) float64 seconds, rising: clips one after the other, the last of them ending with the video.

    K = ceil(duration / length). Where that passes `max_clips`, so many clips lie evenly between the first moment and
    the last: what is between frames of a clip never changes. `duration` is at least one `length`.
    """
    num_clips = _count(duration, length)
    if num_clips > max_clips:
        return _even_starts(duration, length, max_clips)
    starts = torch.arange(num_clips, dtype=torch.float64) * length
    if duration - length < starts[-1] - _ROUNDING_SECONDS:
        starts[-1] = duration - length
    return starts


def released_starts(
    duration: float, length: float, max_clips: int, context_tokens: int, tokens_per_clip: int
) -> Tensor:
    """(K,) float64 seconds, rising: as many clips as RELEASED_SHARE of the context holds, if the video has so many.

    Each lies in the middle of its share of the video; where shares are shorter than a clip, clips lie evenly between
    the first moment and the last (Apollo's released `mm_utils.py`, which counts in frames where this has seconds).
    """
    fitting = RELEASED_SHARE * context_tokens / tokens_per_clip  # clips
    num_clips = min(_count(duration, length), math.ceil(fitting), max_clips)
    share = duration / num_clips
    if share <= length:
        return _even_starts(duration, length, num_clips)
    return (torch.arange(num_clips, dtype=torch.float64) + 0.5) * share - length / 2


def whole_clips(moments: Tensor, clip_frames: int) -> Tensor:
    """The (F,) moments, the last one repeated until they make whole clips."""
    missing = -len(moments) % clip_frames
    return torch.cat([moments, moments[-1:].expand(missing)])


def clip_spans(pts_seconds: Tensor, timestamps: Tensor, clip_frames: int, end_seconds: float) -> Tensor:
    """(K, 2) float64 seconds: begin and end of each clip.

    A clip begins with its first frame, `pts_seconds` (F,), and lasts as long as its frames stand apart in `timestamps`
    (F,), each of them counted: 4 frames half a second apart are 2 seconds. It ends at `end_seconds` at the latest. A
    clip that repeats one moment counts the widest step of the others; where there is none, it lasts to the end.
    """
    moments = timestamps.reshape(-1, clip_frames)  # (K, N)
    steps = (moments.diff(dim=1, prepend=moments[:, :1])).amax(dim=1)  # (K,) 0 where a moment is repeated
    widest = timestamps.diff(prepend=timestamps[:1]).max()
    lengths = clip_frames * torch.where(steps > 0, steps, widest)
    lengths[lengths <= 0] = torch.inf
    begins = pts_seconds[::clip_frames]
    ends = (begins + lengths).clamp(max=end_seconds)
    return torch.stack([begins, ends.maximum(begins)], dim=1)


def _count(duration: float, length: float) -> int:
    return max(1, math.ceil((duration - _ROUNDING_SECONDS) / length))


def _even_starts(duration: float, length: float, num_clips: int) -> Tensor:
    return torch.linspace(0.0, max(0.0, duration - length), num_clips, dtype=torch.float64)
