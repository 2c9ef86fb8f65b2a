"""Prepare a conversation as a Sample: choose moments and sizes, decode media and encode the text.

The plan is made of numbers alone; pixels are read once it fits. Where media and text pass `max_length`, the media are
planned anew with what the text leaves (fewer frames where even the smallest size is too much, then lower resolution;
fewer clips where the encoder takes clips). Where the text alone is too long, the media keep their budget and old turns
go. Visual tokens are never cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lightning_apollo.data.conversation import Conversation, MediaPart
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.bound import longest_prompt
from lightning_apollo.data.sampling.clips import clip_spans
from lightning_apollo.data.sampling.media_plan import MediaPlan, fit_clips, fit_frames
from lightning_apollo.data.sampling.timestamps import (
    for_video,
    frames_in_segment,
    sample_timestamps,
    single_frame,
    tick_seconds,
)
from lightning_apollo.data.storage.roots import MediaRoot, as_root, part_address
from lightning_apollo.structures import Frames, MediaInfo, Sample, VisualItem


@dataclass(frozen=True)
class Preparer:
    """Turn conversations into samples. It can be pickled, so that loader processes hold one each."""

    settings: Preprocessing
    is_packed: bool = False  # micro-batches are planned from an index: no sample may take more than was planned
    visuals: str = "full"  # full | single_frame | blind, as in DataConfig
    seed: int = 0  # of the single frame
    reader: MediaReader = field(default_factory=DirectReader)

    def sample(self, conversation: Conversation, root: Path | MediaRoot, epoch: int = 0) -> Sample:
        """The conversation as a training sample; MediaError for unreadable media, ValueError where it cannot fit."""
        conversation, visuals = self._shown(*self._fit(*self.plan(conversation, root, epoch)))
        return self.settings.render(conversation, visuals, self.settings.budget.max_length)

    def prompt(self, conversation: Conversation, root: Path | MediaRoot) -> Sample:
        """The conversation up to its last answer, as a sample without labels that asks for it."""
        conversation, visuals = self._shown(*self.plan(conversation, root), is_prompt=True)
        return self.settings.render_prompt(conversation, visuals)

    def plan(
        self, conversation: Conversation, root: Path | MediaRoot, epoch: int = 0
    ) -> tuple[Conversation, list[MediaPlan | None]]:
        """A plan for each of `conversation.media` (None: not shown), and the conversation up to its stream's end.

        Moments and sizes are inside the token budget; `epoch` moves the frame of the single-frame baseline.
        """
        streamed = {part for turn in conversation.messages if turn.role == "stream" for part in turn.parts}
        if streamed and self.settings.clip is not None:
            raise ValueError(
                f"{conversation.sample_id}: a stream is shown frame by frame, but the model takes clips: "
                "leave its source out of the mixture"
            )
        if self.visuals == "blind":
            return conversation, [None for _ in conversation.media]
        plans = [
            self._plan_part(part, root, part in streamed, f"{conversation.sample_id}/{epoch}/{number}")
            for number, part in enumerate(conversation.media)
        ]
        conversation, dealt = _dealt(conversation, plans)
        return _dealt(conversation, self._shrunk(dealt, self.settings.budget.token_budget))

    def _plan_part(self, part: MediaPart, root: Path | MediaRoot, is_stream: bool, name: str) -> MediaPlan:
        info = self._info(part, root)
        clip, merge_size = self.settings.clip, self.settings.merge_size(info.modality)
        if info.modality == "image":
            return MediaPlan(info, "image", torch.zeros(1, dtype=torch.float64), merge_size, clip=clip)
        sampling = for_video(self.settings.sampling, part.fps, part.max_frames)
        segment = (part.begin_seconds, part.end_seconds)
        if is_stream:  # every moment of the rate, to its limit
            sampling = replace(sampling, kind="fps", max_frames=max(1, int(info.duration_seconds * sampling.fps) + 1))
        timestamps = sample_timestamps(info, sampling, *segment, clip and clip.num_tokens)
        if self.visuals == "single_frame":
            timestamps = single_frame(timestamps, self.seed, name)
            return MediaPlan(info, "image", timestamps, merge_size, clip=clip)
        plan = MediaPlan(
            info, "video", timestamps, merge_size, is_stream, clip=clip, sampling=sampling, segment=segment
        )
        plan = replace(plan, ticks=tick_seconds(info, sampling, *segment))
        if is_stream:
            end = float(plan.player_seconds[-1]) + 1.0 / sampling.fps
            plan = replace(plan, stream_end_seconds=end, has_frame_turns=self.settings.streams == "released")
            plan = plan.thinned(min(len(timestamps), part.max_frames or self.settings.stream_max_frames))
        if plan.shows_once and len(plan.timestamps) > frames_in_segment(info, *segment):
            return self._counted(plan)
        return plan

    def _counted(self, plan: MediaPlan) -> MediaPlan:
        """The plan without moments at which a frame is shown again; its times tell, and pixels of any size come along."""
        return _once(plan, self.reader.decode(plan.info, plan.timestamps, (1, 1)))

    def _info(self, part: MediaPart, root: Path | MediaRoot) -> MediaInfo:
        return self.reader.probe(part_address(as_root(root), part), part.modality)

    def _budgeted(self, plans: Sequence[MediaPlan], token_budget: int) -> list[MediaPlan]:
        if self.settings.clip is not None:
            return fit_clips(plans, self.settings.clip, token_budget)
        return fit_frames(plans, self.settings.patch_size, replace(self.settings.budget, token_budget=token_budget))

    def _fit(
        self, conversation: Conversation, plans: list[MediaPlan | None]
    ) -> tuple[Conversation, list[MediaPlan | None]]:
        """The plans again, smaller where text and media together would pass `max_length`."""
        shown = [plan for plan in plans if plan is not None]
        if not shown or self._longest(conversation, shown) <= self.settings.budget.max_length:
            return conversation, plans
        length = self._planned_length(conversation, plans)
        if length <= self.settings.budget.max_length:
            return conversation, plans
        is_of_frames = self.settings.clip is None
        room = self._room_for_frames(shown, length) if is_of_frames else self._room_for_clips(conversation, plans)
        if not room:
            return conversation, plans
        plans = self._shrunk(plans, room)
        return _dealt(conversation, plans)

    def _shrunk(self, plans: Sequence[MediaPlan | None], token_budget: int) -> list[MediaPlan | None]:
        smaller = iter(self._budgeted([plan for plan in plans if plan is not None], token_budget))
        return [next(smaller) if plan is not None else None for plan in plans]

    def _room_for_frames(self, shown: Sequence[MediaPlan], length: int) -> int:
        """Visual tokens that the text of a sample of `length` tokens leaves; 0 where that is too little for a frame
        of each."""
        num_visual_tokens = sum(plan.num_tokens(self.settings.patch_size) for plan in shown)
        room = self.settings.budget.max_length - (length - num_visual_tokens)
        return room if room >= self.settings.budget.min_tokens * len(shown) else 0

    def _room_for_clips(self, conversation: Conversation, plans: Sequence[MediaPlan | None]) -> int:
        """The same for clips, which bring text of their own: tokens of the most clips that fit together with it."""
        assert self.settings.clip is not None  # asked for by encoders of clips alone
        shown = [plan for plan in plans if plan is not None]
        budgets = [n * self.settings.clip.num_tokens for n in range(len(shown), sum(plan.num_runs for plan in shown))]
        num_fitting = bisect_right(
            budgets,
            self.settings.budget.max_length,
            key=lambda token_budget: self._planned_length(conversation, self._shrunk(plans, token_budget)),
        )
        return budgets[num_fitting - 1] if num_fitting else 0

    def _longest(self, conversation: Conversation, plans: Sequence[MediaPlan]) -> int:
        """A length in tokens that the sample cannot pass; within it, no closer look is needed."""
        settings = self.settings
        return longest_prompt(conversation, plans, settings.patch_size, settings.system_prompt, settings.clip_text)

    def _planned_length(self, conversation: Conversation, plans: Sequence[MediaPlan | None]) -> int:
        """Tokens of the sample where every frame plays at the very moment that it was planned for."""
        return self.settings.count_tokens(conversation, [plan and planned_item(plan) for plan in plans])

    def _shown(
        self, conversation: Conversation, plans: list[MediaPlan | None], is_prompt: bool = False
    ) -> tuple[Conversation, list[VisualItem | None]]:
        """The items with their pixels. Frames that turn out to play at several moments are shown once, and the budget is
        shared out anew among those that are left: at the cost of a second decode, where there is such a frame."""
        decoded = [None if plan is None else (plan, self._decode(plan)) for plan in plans]
        once = [pair and _once(*pair) for pair in decoded]
        before, after = ([len(plan.timestamps) for plan in some if plan] for some in (plans, once))
        if before == after:
            return conversation, [pair and _item(*pair) for pair in decoded]
        planned = sum(plan.num_tokens(self.settings.patch_size) for plan in plans if plan)
        plans = self._shrunk(once, planned if self.is_packed else self.settings.budget.token_budget)
        if not is_prompt:
            conversation, plans = self._fit(conversation, plans)
        return conversation, [plan and _item(plan, self._decode(plan)) for plan in plans]

    def _decode(self, plan: MediaPlan) -> Frames:
        """The frames of a plan. Clips that overlap share some: each moment is decoded once, in rising order."""
        moments, places = plan.timestamps.unique(return_inverse=True)
        frames = self.reader.decode(plan.info, moments, plan.size, self.settings.picture.background)
        if torch.equal(moments, plan.timestamps):
            return frames
        return Frames(frames.pixels[places], frames.pts_seconds[places])


def planned_item(plan: MediaPlan) -> VisualItem:
    """The item as planned, its moments for times and one grey pixel spread over every frame: it takes no memory."""
    grey = torch.zeros((), dtype=torch.uint8)
    return _item(plan, Frames(grey.expand(len(plan.timestamps), 3, *plan.size), plan.timestamps))


def _item(plan: MediaPlan, frames: Frames) -> VisualItem:
    """The item, its times on the clock of the prompt."""
    pts_seconds = (frames.pts_seconds if plan.ticks is None else plan.ticks) - plan.zero_seconds
    item = VisualItem(
        Frames(frames.pixels, pts_seconds),
        plan.modality,
        plan.merge_size,
        plan.info.path,
        zero_seconds=plan.info.clock_start_seconds - plan.zero_seconds,
        has_frame_turns=plan.has_frame_turns,
    )
    if plan.clip is None:
        return item
    spans = None
    if plan.modality == "video":
        end_seconds = plan.end_seconds - plan.zero_seconds
        spans = clip_spans(pts_seconds, plan.timestamps, plan.clip.num_frames, end_seconds)
    return replace(item, clip=plan.clip, spans_seconds=spans, duration_seconds=plan.info.duration_seconds)


def _once(plan: MediaPlan, frames: Frames) -> MediaPlan:
    """The plan without the moments at which a frame plays that plays at the one before, where frames are shown once."""
    return plan.at(_begins(frames)) if plan.shows_once else plan


def _begins(frames: Frames) -> Tensor:
    """(F,) bool: the frame differs from the one before it."""
    return frames.pts_seconds.diff(prepend=frames.pts_seconds.new_tensor([-torch.inf])) > 0


def _dealt(
    conversation: Conversation, plans: Sequence[MediaPlan | None]
) -> tuple[Conversation, list[MediaPlan | None]]:
    """The conversation without the turns behind the end of its stream; frames in turns of their own end with the last turn."""
    ends = [plan.stream_end_seconds for plan in plans if plan is not None and plan.is_stream]
    if not ends:
        return conversation, [*plans]
    messages = tuple(turn for turn in conversation.messages if turn.time is None or turn.time < max(ends))
    times = [turn.time for turn in messages if turn.time is not None]
    last = max(times, default=torch.inf)
    return replace(conversation, messages=messages), [plan and plan.until(last) for plan in plans]
