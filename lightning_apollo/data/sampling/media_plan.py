"""Plan of a sample's media: moments and sizes inside the token budget.

Encoders of frames: all frames get an equal share, as a size; where the smallest size is too much, frames go. Encoders
of clips: an image is one clip, videos share the other clips equally, and one that loses clips is sampled anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_apollo.data.sampling.budget import BudgetConfig, max_frames_in_budget, target_sizes
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.structures import ClipShape, MediaInfo, Modality


@dataclass(frozen=True)
class MediaPlan:
    """Decoding plan of one image or video."""

    info: MediaInfo
    modality: Modality  # how it is shown; a video's single frame is shown as an image
    timestamps: Tensor  # (F,) float64 seconds on the container's clock, to decode at
    merge_size: int
    is_stream: bool = False  # loses its end where frames must go; other videos are thinned out evenly
    ticks: Tensor | None = None  # (F,) float64 seconds to print, on the same clock; None: those of the decoded frames
    stream_end_seconds: float = math.inf  # of a stream, on a player's clock: where its last frame ceases to be shown
    has_frame_turns: bool = False  # of a stream: every frame is a turn of its own, its time counts from the cut
    is_counted: bool = True  # False: fewer frames may be shown, which only their times can tell
    size: tuple[int, int] = (0, 0)  # height and width in pixels, once the budget is shared out
    clip: ClipShape | None = None  # None: the encoder takes frames one by one
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # with which a video in clips is sampled anew
    segment: tuple[float | None, float | None] = (
        None,
        None,
    )  # seconds on a player's clock that the annotation cuts out

    @property
    def num_runs(self) -> int:
        """Frames, or clips where the encoder takes clips; a single frame stands for a whole clip of itself."""
        num_frames = len(self.timestamps)
        return num_frames if self.clip is None else max(1, num_frames // self.clip.num_frames)

    @property
    def shows_once(self) -> bool:
        """True if a frame that plays at several moments is shown at one of them alone."""
        return self.modality == "video" and self.clip is None and self.sampling.repeats == "drop"

    @property
    def zero_seconds(self) -> float:
        """Origin of times in the prompt, on the container's clock."""
        if self.has_frame_turns and self.segment[0] is not None:
            return self.info.clock_start_seconds + self.segment[0]
        return 0.0 if self.sampling.clock == "container" else self.info.clock_start_seconds

    @property
    def stamps(self) -> Tensor:
        """(F,) float64 seconds in the prompt, where every frame begins at the moment that it is planned for."""
        return (self.timestamps if self.ticks is None else self.ticks) - self.zero_seconds

    @property
    def player_seconds(self) -> Tensor:
        """(F,) float64 seconds from the start of the video, as `stamps` are from `zero_seconds`."""
        return self.stamps + self.zero_seconds - self.info.clock_start_seconds

    @property
    def end_seconds(self) -> float:
        """End of the video, or of the part that is cut out of it, on the container's clock."""
        end, cut = self.info.begin_seconds + self.info.duration_seconds, self.segment[1]
        return end if cut is None else min(self.info.clock_start_seconds + cut, end)

    def num_tokens(self, patch_size: int) -> int:
        """Visual tokens before reduction."""
        if self.clip is not None:
            return self.num_runs * self.clip.num_tokens
        height, width = self.size
        return len(self.timestamps) * height * width // (patch_size * self.merge_size) ** 2

    def thinned(self, num_frames: int) -> MediaPlan:
        """The plan with `num_frames` of its moments, the first one included."""
        if not self.is_stream:
            return self.at(torch.linspace(0, len(self.timestamps) - 1, num_frames).long())
        if num_frames >= len(self.timestamps):
            return self
        end = float(self.player_seconds[num_frames])
        return replace(self.at(torch.arange(num_frames)), stream_end_seconds=end)

    def until(self, last_seconds: float) -> MediaPlan:
        """The plan of a stream without the frames behind its last turn, where frames are turns; at least one frame."""
        if not self.has_frame_turns:
            return self
        return self.at(torch.arange(max(1, int((self.player_seconds <= last_seconds).sum()))))

    def at(self, chosen: Tensor) -> MediaPlan:
        """The plan with those of its moments that are `chosen`, by number or as (F,) bool."""
        ticks = None if self.ticks is None else self.ticks[chosen]
        return replace(self, timestamps=self.timestamps[chosen], ticks=ticks)

    def in_clips(self, num_clips: int) -> MediaPlan:
        """The plan with `num_clips` clips at most, placed anew over the whole of the video."""
        if self.clip is None or self.num_runs <= num_clips:
            return self
        max_frames = min(self.sampling.max_frames, num_clips * self.clip.num_frames)
        sampling = replace(self.sampling, max_clips=num_clips, max_frames=max_frames)
        timestamps = sample_timestamps(self.info, sampling, *self.segment, tokens_per_clip=self.clip.num_tokens)
        return replace(self, timestamps=timestamps)


def fit_frames(plans: Sequence[MediaPlan], patch_size: int, budget: BudgetConfig) -> list[MediaPlan]:
    """The plans with sizes, and with fewer moments where the smallest size of all of them would pass the budget."""
    limit = max_frames_in_budget(budget)
    counts = [len(plan.timestamps) for plan in plans]
    if len(plans) > limit:
        raise ValueError(f"{len(plans)} images and videos do not fit a token_budget of {budget.token_budget}")
    if sum(counts) > limit:  # each keeps one frame, and its share of the rest
        spare, wanted = limit - len(plans), sum(counts) - len(plans)
        plans = [plan.thinned(1 + (count - 1) * spare // wanted) for plan, count in zip(plans, counts, strict=True)]
    shapes = [(len(plan.timestamps), plan.info.height, plan.info.width) for plan in plans]
    sizes = target_sizes(shapes, [plan.merge_size for plan in plans], patch_size, budget)
    return [replace(plan, size=size) for plan, size in zip(plans, sizes, strict=True)]


def fit_clips(plans: Sequence[MediaPlan], clip: ClipShape, token_budget: int) -> list[MediaPlan]:
    """The plans with sizes, videos with fewer clips where all of them would pass the budget.

    Every image costs one clip. What they leave is shared equally by the videos; what one has no need of is shared by
    the others.
    """
    limit = token_budget // clip.num_tokens
    if len(plans) > limit:
        raise ValueError(
            f"{len(plans)} images and videos of {clip.num_tokens} tokens or more do not fit a token_budget of "
            f"{token_budget}: raise data.budget.token_budget or show fewer"
        )
    shares = _equal_shares([plan.num_runs for plan in plans], limit)
    return [
        replace(plan.in_clips(share), size=_clip_size(plan.info, clip))
        for plan, share in zip(plans, shares, strict=True)
    ]


def _equal_shares(wanted: Sequence[int], limit: int) -> list[int]:
    """Clips for each item: what it wants, at most an equal share of what is left by those that want less."""
    shares = list(wanted)
    smallest_first = sorted(range(len(wanted)), key=wanted.__getitem__)
    for num_left, index in zip(range(len(wanted), 0, -1), smallest_first, strict=True):
        shares[index] = min(wanted[index], limit // num_left)
        limit -= shares[index]
    return shares


def _clip_size(info: MediaInfo, clip: ClipShape) -> tuple[int, int]:
    """Height and width in pixels: the longer side is that of the clip, the aspect stays."""
    scale = clip.image_size / max(info.height, info.width)
    return max(1, round(info.height * scale)), max(1, round(info.width * scale))
