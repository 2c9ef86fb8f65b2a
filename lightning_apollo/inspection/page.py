"""HTML page of one training sample with its micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lightning_apollo.data.conversation import MediaPart
from lightning_apollo.inspection.ledger import Bar, batch_bars, media_facts, token_ledger
from lightning_apollo.inspection.sample import Inspected
from lightning_apollo.inspection.text import text_spans
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.pages.report import view_clip, write_html

_WHY_DROPPED = {  # by kind of reducer
    "diff_fp": "dropped before the language model, because their pixels did not change",
    "merge_similar": "merged into the like token of a frame before",
}


@dataclass(frozen=True)
class Gauge:
    """Fill of a micro-batch by one count."""

    name: str
    count: int
    limit: int | None  # None: the stage has none

    @property
    def scale(self) -> int:
        return max(1, self.count, self.limit or 0)


def write_inspection_page(inspected: Inspected, path: Path) -> str:
    """Write the page and return its content in a line. Texts of the data are escaped; nothing is loaded from elsewhere."""
    sample, bars = inspected.sample, [] if inspected.batch is None else batch_bars(inspected, inspected.batch)
    values = {
        "inspected": inspected,
        "sample": sample,
        "facts": _facts(inspected),
        "ledger": {} if sample is None else token_ledger(inspected, sample),
        "media": [] if sample is None else media_facts(inspected, sample),
        "clip": None,
        "why_dropped": _WHY_DROPPED.get(inspected.recipe.stages[inspected.stage].reducer.kind, ""),
        "spans": [],
        "turns": _written(inspected) if sample is None else [],
        "bars": bars,
        "longest": max((bar.length for bar in bars), default=1),
        "gauges": _gauges(inspected, bars),
    }
    if sample is not None:
        keep_mask = None if inspected.reduction is None else inspected.reduction.keep_mask
        values["clip"] = view_clip("", sample, keep_mask, [])
        tokenizer = load_tokenizer_of(inspected.recipe.model.llm)
        values["spans"] = list(text_spans(sample, tokenizer, keep_mask))
    write_html(path, files("lightning_apollo.inspection").joinpath("page.html").read_text(), values)
    return _summary(inspected)


def _facts(inspected: Inspected) -> dict[str, str]:
    place, conversation = inspected.place, inspected.conversation
    in_batch = place.number - place.request.first_position + 1
    return {
        "sample": f"number {place.number} of {place.num_samples:,}, from 0, in the order in which the first epoch draws them",
        "id": conversation.sample_id,
        "source": conversation.source,
        "micro-batch": f"number {place.micro_batch} of {place.num_micro_batches:,}, from 0, over all ranks; this is "
        f"sample {in_batch} of its {len(place.request.rows)}",
        "recipe": f"{inspected.recipe.name}, stage {inspected.stage}",
    }


def _written(inspected: Inspected) -> list[tuple[str, str]]:
    """Role and content of each turn as the row has it, for a sample that cannot be shown otherwise."""
    return [
        (turn.role, "".join(f"<{p.modality}: {p.path}>" if isinstance(p, MediaPart) else p.text for p in turn.parts))
        for turn in inspected.conversation.messages
    ]


def _gauges(inspected: Inspected, bars: Sequence[Bar]) -> list[Gauge]:
    batch, packing = inspected.batch, inspected.recipe.stages[inspected.stage].packing
    if batch is None:
        return []
    num_tokens = sum(bar.length for bar in bars)
    gauges = [Gauge("LLM tokens before reduction", num_tokens, None if packing is None else packing.max_llm_tokens)]
    if batch.visual.clip is None:
        num_patches = sum(batch.visual.frame_lengths)
        gauges.append(Gauge("patches of the encoder", num_patches, None if packing is None else packing.max_patches))
    return gauges


def _summary(inspected: Inspected) -> str:
    place, sample, name = inspected.place, inspected.sample, inspected.conversation.sample_id
    words = f"sample {place.number} of {place.num_samples} ({name})"
    if sample is None:
        return f"{words} cannot be used: {inspected.error}"
    num_visual = int(sample.is_placeholder.sum())
    words += f": {sample.input_ids.numel() - num_visual:,} text tokens, {sample.num_labels:,} of them trained on"
    if num_visual:
        kept = "an unknown number" if inspected.reduction is None else f"{inspected.reduction.num_kept:,}"
        words += f", {num_visual:,} visual tokens, {kept} of them kept"
    return words
