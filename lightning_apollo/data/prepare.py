"""From a conversation to a Sample: which moments and sizes its media get, decoding, and the text around them.

The plan is made of numbers alone; pixels are read once it fits. Where media and text pass `max_length`, the media are
planned anew with what the text leaves (fewer frames where even the smallest size is too much, then lower resolution).
Where the text alone is too long, the media keep their budget and old turns go. Visual tokens are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lightning_apollo.data import media
from lightning_apollo.data.conversation import ChatTokenizer, render, render_prompt
from lightning_apollo.data.resize import BudgetConfig, max_frames_in_budget, target_sizes
from lightning_apollo.data.rows import Conversation, MediaPart, TextPart
from lightning_apollo.data.sample import SamplingConfig, sample_timestamps, single_frame
from lightning_apollo.structures import Frames, MediaInfo, Modality, Sample, VisualItem

Decode = Callable[[MediaInfo, Tensor, tuple[int, int]], Frames]  # media, timestamps (F,), (height, width)


@dataclass(frozen=True)
class MediaPlan:
    """What will be decoded of one image or video."""

    info: MediaInfo
    modality: Modality  # how it is shown; a video's single frame is shown as an image
    timestamps: Tensor  # (F,) float64 seconds
    merge_size: int
    is_stream: bool = False  # loses its end where frames must go; other videos are thinned out evenly
    size: tuple[int, int] = (0, 0)  # height and width in pixels, once the budget is shared out

    def thinned(self, num_frames: int) -> MediaPlan:
        """The plan with `num_frames` of its moments, the first one included."""
        if self.is_stream:
            return replace(self, timestamps=self.timestamps[:num_frames])
        kept = torch.linspace(0, len(self.timestamps) - 1, num_frames).long()
        return replace(self, timestamps=self.timestamps[kept])


@dataclass(frozen=True)
class Preparer:
    """Turns conversations into samples. It can be pickled, so that loader processes hold one each."""

    tokenizer: ChatTokenizer
    patch_size: int
    image_merge_size: int
    video_merge_size: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    system_prompt: str = ""
    stream_max_frames: int = 400
    visuals: str = "full"  # full | single_frame | blind, as in DataConfig
    seed: int = 0  # of the single frame
    decode: Decode = field(default_factory=lambda: partial(media.decode, num_threads=1))

    def sample(self, conversation: Conversation, root: Path, epoch: int = 0) -> Sample:
        """The conversation as a training sample; MediaError for unreadable media, ValueError where it cannot fit."""
        conversation, plans = self._fit(*self.plan(conversation, root, epoch))
        return self._render(conversation, [plan and self._decode(plan) for plan in plans])

    def prompt(self, conversation: Conversation, root: Path) -> Sample:
        """The conversation up to its last answer, as a sample without labels that asks for it."""
        conversation, plans = self.plan(conversation, root)
        visuals = [plan and self._decode(plan) for plan in plans]
        return render_prompt(conversation, visuals, self.tokenizer, self.patch_size, self.system_prompt)

    def plan(
        self, conversation: Conversation, root: Path, epoch: int = 0
    ) -> tuple[Conversation, list[MediaPlan | None]]:
        """A plan for each of `conversation.media` (None: not shown), and the conversation up to its stream's end.

        Moments and sizes are inside the token budget; `epoch` moves the frame of the single-frame baseline.
        """
        if self.visuals == "blind":
            return conversation, [None for _ in conversation.media]
        streamed = {part for turn in conversation.messages if turn.role == "stream" for part in turn.parts}
        plans = [
            self._plan_part(part, root, part in streamed, f"{conversation.sample_id}/{epoch}/{number}")
            for number, part in enumerate(conversation.media)
        ]
        plans = _fit_budget(plans, self.patch_size, self.budget)
        return _until_stream_ends(conversation, plans, self.sampling.fps), [*plans]

    def _plan_part(self, part: MediaPart, root: Path, is_stream: bool, name: str) -> MediaPlan:
        info = media.probe(root / part.path, part.modality)
        if info.modality == "image":
            timestamps = torch.zeros(1, dtype=torch.float64)
            return MediaPlan(info, "image", timestamps, self.image_merge_size)
        sampling = self.sampling
        if is_stream:  # every moment of the rate, to its limit
            sampling = replace(sampling, kind="fps", max_frames=max(1, int(info.duration_seconds * sampling.fps) + 1))
        timestamps = sample_timestamps(info, sampling, part.begin_seconds, part.end_seconds)
        if self.visuals == "single_frame":
            timestamps = single_frame(timestamps, self.seed, name)
            return MediaPlan(info, "image", timestamps, self.video_merge_size)
        if is_stream:
            timestamps = timestamps[: self.stream_max_frames]
        return MediaPlan(info, "video", timestamps, self.video_merge_size, is_stream)

    def _fit(
        self, conversation: Conversation, plans: list[MediaPlan | None]
    ) -> tuple[Conversation, list[MediaPlan | None]]:
        """The plans again, smaller where text and media together would pass `max_length`."""
        shown = [plan for plan in plans if plan is not None]
        if not shown or self._longest(conversation, shown) <= self.budget.max_length:
            return conversation, plans
        length = self._planned_length(conversation, plans)
        num_visual_tokens = sum(_num_tokens(plan, self.patch_size) for plan in shown)
        room = self.budget.max_length - (length - num_visual_tokens)
        if length <= self.budget.max_length or room < self.budget.min_tokens * len(shown):
            return conversation, plans
        smaller = iter(_fit_budget(shown, self.patch_size, replace(self.budget, token_budget=room)))
        plans = [next(smaller) if plan is not None else None for plan in plans]
        return _until_stream_ends(conversation, [plan for plan in plans if plan], self.sampling.fps), plans

    def _longest(self, conversation: Conversation, plans: Sequence[MediaPlan]) -> int:
        """A length in tokens that the sample cannot pass; within it, no closer look is needed.

        No token is shorter than a byte, no header of a turn longer than 32 of them, no time stamp longer than 48.
        """
        text = [part.text for turn in conversation.messages for part in turn.parts if isinstance(part, TextPart)]
        num_bytes = sum(len(piece.encode()) for piece in (self.system_prompt, *text))
        num_visual_tokens = sum(_num_tokens(plan, self.patch_size) + 48 * len(plan.timestamps) for plan in plans)
        return num_bytes + 32 * (1 + len(conversation.messages)) + num_visual_tokens

    def _planned_length(self, conversation: Conversation, plans: Sequence[MediaPlan | None]) -> int:
        """Tokens of the sample, counted with one grey pixel spread over every frame in the place of pixels."""
        grey = torch.zeros((), dtype=torch.uint8)
        stand_ins = [
            plan and self._item(plan, Frames(grey.expand(len(plan.timestamps), 3, *plan.size), plan.timestamps))
            for plan in plans
        ]
        sample = render(conversation, stand_ins, self.tokenizer, self.patch_size, self.system_prompt)
        return sample.input_ids.numel()

    def _decode(self, plan: MediaPlan) -> VisualItem:
        return self._item(plan, self.decode(plan.info, plan.timestamps, plan.size))

    def _item(self, plan: MediaPlan, frames: Frames) -> VisualItem:
        return VisualItem(frames, plan.modality, plan.merge_size, plan.info.path)

    def _render(self, conversation: Conversation, visuals: Sequence[VisualItem | None]) -> Sample:
        return render(
            conversation, visuals, self.tokenizer, self.patch_size, self.system_prompt, self.budget.max_length
        )


def _fit_budget(plans: Sequence[MediaPlan], patch_size: int, budget: BudgetConfig) -> list[MediaPlan]:
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


def _num_tokens(plan: MediaPlan, patch_size: int) -> int:
    height, width = plan.size
    return len(plan.timestamps) * height * width // (patch_size * plan.merge_size) ** 2


def _until_stream_ends(conversation: Conversation, plans: Sequence[MediaPlan], fps: float) -> Conversation:
    """The conversation without the turns that come after the last frame of its stream has been shown for 1/fps."""
    ends = [float(plan.timestamps[-1]) + 1.0 / fps for plan in plans if plan.is_stream]
    if not ends:
        return conversation
    messages = tuple(turn for turn in conversation.messages if turn.time is None or turn.time < max(ends))
    return replace(conversation, messages=messages)
