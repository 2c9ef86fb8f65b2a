"""Ledger of a sample: token costs and the fate of its media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.prompt.template import IM_START
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.media_plan import MediaPlan
from lightning_apollo.data.storage.address import title_of
from lightning_apollo.inspection.sample import EPOCH, Inspected
from lightning_apollo.models.reduce import Reduction
from lightning_apollo.structures import IGNORE_INDEX, PackedBatch, Sample, VisualItem

_NO_LIMIT = 2**40  # tokens


@dataclass(frozen=True)
class MediaFacts:
    """One image or video: what its file has, what was asked for, and what is shown."""

    path: str
    file: str
    sampling: str
    shown: str
    num_tokens: int  # before reduction
    num_kept: int | None  # None: not known
    shrunk_by: str  # the key of the recipe that made it smaller than its file and the sampling say; empty: none did


@dataclass(frozen=True)
class Bar:
    """The tokens of one sample in its micro-batch."""

    sample_id: str
    is_inspected: bool
    num_text: int
    num_kept: int | None  # visual tokens that reach the LLM; None: not known
    num_visual: int  # before reduction
    num_labels: int

    @property
    def length(self) -> int:
        """Tokens before reduction: what limits count."""
        return self.num_text + self.num_visual

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Kind and number of tokens, in the order of the bar."""
        if self.num_kept is None:
            return ("text", self.num_text), ("unknown", self.num_visual)
        return ("text", self.num_text), ("kept", self.num_kept), ("dropped", self.num_visual - self.num_kept)


def token_ledger(inspected: Inspected, sample: Sample) -> dict[str, str]:
    """Name -> what it is, of the tokens of a sample."""
    budget = inspected.data.config.budget
    num_visual = int(sample.is_placeholder.sum())
    num_text = sample.input_ids.numel() - num_visual
    ledger = {
        "text tokens": f"{num_text:,}",
        "of them trained on": f"{sample.num_labels:,} ({sample.num_labels / num_text:.0%})",
        "visual tokens before reduction": f"{num_visual:,} of data.budget.token_budget {budget.token_budget:,}",
        "length": f"{sample.input_ids.numel():,} of data.budget.max_length {budget.max_length:,}",
    }
    if inspected.reduction is None:
        ledger["reach the LLM"] = "not known"
    else:
        kept = inspected.reduction.num_kept
        share = f", {kept / num_visual:.0%} of the visual ones" if num_visual else ""
        ledger["reach the LLM"] = f"{num_text + kept:,}: {num_text:,} of text and {kept:,} visual{share}"
    num_turns, num_written = _num_turns(inspected, sample)
    if num_turns < num_written:
        ledger["turns"] = f"{num_turns} of {num_written}: the others do not fit, or come after the end of the stream"
    return ledger


def media_facts(inspected: Inspected, sample: Sample) -> list[MediaFacts]:
    """One entry for each image and video that the sample shows, in the order of the text."""
    preparer, conversation, root = inspected.data.preparer, inspected.conversation, inspected.source.root
    budget = BudgetConfig(_NO_LIMIT, preparer.settings.budget.min_tokens, 2 * _NO_LIMIT)
    unlimited = replace(preparer, settings=replace(preparer.settings, budget=budget))
    asked, planned = (
        [plan for plan in one.plan(conversation, root, EPOCH)[1] if plan is not None] for one in (unlimited, preparer)
    )
    kept = _kept_of_items(sample, inspected.reduction)
    return [
        _facts(item, full, smaller, num_kept, preparer)
        for item, full, smaller, num_kept in zip(sample.visuals, asked, planned, kept, strict=True)
    ]


def batch_bars(inspected: Inspected, batch: PackedBatch) -> list[Bar]:
    """One for each sample of the micro-batch, in its order."""
    labels = batch.labels.split(batch.lengths)
    visual = _sums(batch, batch.visual.run_tokens)
    reduction = inspected.batch_reduction
    kept = [None] * len(batch) if reduction is None else _sums(batch, reduction.run_tokens)
    wanted = inspected.conversation.sample_id
    return [
        Bar(name, name == wanted, length - before, after, before, int((own != IGNORE_INDEX).sum()))
        for name, length, before, after, own in zip(batch.sample_ids, batch.lengths, visual, kept, labels, strict=True)
    ]


def _facts(
    item: VisualItem, asked: MediaPlan, planned: MediaPlan, num_kept: int | None, preparer: Preparer
) -> MediaFacts:
    info, num_frames = asked.info, len(item.frames)
    height, width = item.frames.pixels.shape[2:]
    file = f"{info.height}×{info.width} pixels, {info.codec}"
    size = f"{height}×{width} of {asked.size[0]}×{asked.size[1]} pixels"
    shown = size if item.modality == "image" else f"{num_frames} of {len(asked.timestamps)} frames, each {size}"
    if info.modality == "video":
        file += f", {info.num_frames:,} frames in {info.duration_seconds:.2f} s ({info.fps or 0:.2f} a second)"
    return MediaFacts(
        path=title_of(info.path),
        file=file,
        sampling=_sampling(item, asked, preparer),
        shown=shown,
        num_tokens=item.num_visual_tokens(preparer.settings.patch_size),
        num_kept=num_kept,
        shrunk_by=_shrunk_by(item, asked, planned),
    )


def _sampling(item: VisualItem, asked: MediaPlan, preparer: Preparer) -> str:
    """Moments asked for and moments shown; empty for an image file."""
    if asked.info.modality == "image":
        return ""
    sampling, times = preparer.settings.sampling, item.frames.pts_seconds
    begin, end = float(times[0]), float(times[-1])
    words = [f"{sampling.kind}: " + (f"{sampling.fps:g} a second" if sampling.kind != "uniform" else "evenly spread")]
    if asked.segment != (None, None):
        limits = ("the beginning", "the end")
        first, last = (f"{at:g} s" if at is not None else limits[i] for i, at in enumerate(asked.segment))
        words.append(f"the part from {first} to {last}")
    words.append(f"shown from {begin:.2f} to {end:.2f} s")
    if end > begin:
        words.append(f"{(len(times) - 1) / (end - begin):.2f} a second on average")
    return ", ".join(words)


def _shrunk_by(item: VisualItem, asked: MediaPlan, planned: MediaPlan) -> str:
    """The limit that took frames or pixels away: the length of the sample comes after the budget of its media."""
    shown = (len(item.frames), *item.frames.pixels.shape[2:])
    if shown[1] > planned.size[0]:  # frames that play at several moments are shown once, and leave room
        return ""
    if shown != (len(planned.timestamps), *planned.size):
        return "data.budget.max_length"
    if shown != (len(asked.timestamps), *asked.size):
        return "data.budget.token_budget"
    return ""


def _kept_of_items(sample: Sample, reduction: Reduction | None) -> Sequence[int | None]:
    """Kept visual tokens of each item, from those of its runs."""
    if reduction is None:
        return [None] * len(sample.visuals)
    runs = iter(reduction.run_tokens)
    return [sum(next(runs) for _ in range(item.num_runs)) for item in sample.visuals]


def _sums(batch: PackedBatch, run_tokens: Sequence[int]) -> list[int]:
    """Visual tokens of each sample, from those of its runs."""
    sums = [0] * len(batch)
    for sample, tokens in zip(batch.run_samples, run_tokens, strict=True):
        sums[sample] += tokens
    return sums


def _num_turns(inspected: Inspected, sample: Sample) -> tuple[int, int]:
    """Turns of the sample, and turns that were written for it; frames of a stream are no turn."""
    messages = [message for message in inspected.conversation.messages if message.role != "stream"]
    has_prompt = bool(inspected.data.config.system_prompt) and all(message.role != "system" for message in messages)
    opening = inspected.data.text.tokenizer.convert_tokens_to_ids(IM_START)
    return int((sample.input_ids == opening).sum()), len(messages) + has_prompt
