"""Token counts of samples under any sampling setting, from the index alone. No file is opened.

The planner is the Preparer itself, told by the index what its probes would tell it, so that the two cannot disagree.
S samples of the index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lightning_apollo.data.conversation import Conversation, MediaPart, Message
from lightning_apollo.data.index.tables import MODALITIES, Index, none_if_nan
from lightning_apollo.data.prepare import Preparer, planned_item
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.clip_text import PAPER_TEXT
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.encode import ChatTokenizer, render_conversation
from lightning_apollo.data.prompt.template import Piece, media_pieces
from lightning_apollo.data.sampling.media_plan import MediaPlan
from lightning_apollo.data.storage.roots import MediaRoot
from lightning_apollo.structures import ClipShape, Frames, MediaError, MediaInfo, Modality, VisualItem

_MOST_SEEN = 2**16  # media whose cost is kept in mind: several questions about one video, pictures of one size
_HEADER_TOKENS = 32  # what stands around the text of a turn, at most


@dataclass(frozen=True)
class TokenCounts:
    """Costs of every sample, (S,) each; all 0 where a sample is broken or cannot fit."""

    visual_tokens: np.ndarray  # int64, before reduction; this and the next three are at most that where not `is_exact`
    frames: np.ndarray  # int64, images counted as one
    patches: np.ndarray  # int64, rows of the encoder
    vision_squares: np.ndarray  # int64, sum of patches² over frames: what attention inside each frame costs
    llm_tokens: np.ndarray  # int64, text, visual tokens and time stamps
    is_exact: np.ndarray  # bool; llm_tokens then hold for frames that play when they were planned, see `tokens`
    is_usable: np.ndarray  # bool; also where only the text could tell whether dropping old turns makes enough room


class ByteTokenizer:
    """A tokenizer of which every byte is a token: no other makes more of a text."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return 0


@dataclass(frozen=True)
class TextCounter:
    """Count the tokens of text as `conversation.render` lays it out, with one stand-in for each of the media.

    The stand-in of a video is its first frame, or clip, at 0 s. What more of them add does not depend on the rest.
    """

    tokenizer: ChatTokenizer
    name: str  # of the tokenizer
    system_prompt: str = ""
    clip_text: ClipTextConfig | None = None  # None: the encoder takes frames one by one

    @property
    def identity(self) -> str:
        """A hash of all that the counts depend on."""
        text = None if self.clip_text is None else asdict(self.clip_text)
        return hashlib.sha256(json.dumps([self.name, self.system_prompt, text]).encode()).hexdigest()

    def count(self, conversation: Conversation) -> int:
        """Text tokens of the sample, stand-ins' placeholders left out."""
        items = [stand_in(part.modality, self.clip_text is not None) for part in conversation.media]
        text = self.clip_text or PAPER_TEXT
        sample = render_conversation(conversation, items, self.tokenizer, 1, self.system_prompt, clip_text=text)
        return sample.input_ids.numel() - len(items)


def stand_in(modality: Modality, is_clip: bool) -> VisualItem:
    """An item of one frame of one pixel, which is one visual token where a patch is a pixel."""
    frames = Frames(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.float64))
    if not is_clip:
        return VisualItem(frames, modality, merge_size=1)
    spans = torch.tensor([[0.0, 2.0]], dtype=torch.float64) if modality == "video" else None
    return VisualItem(frames, modality, 1, clip=ClipShape(1, 1, 1), spans_seconds=spans, duration_seconds=2.0)


def tokens(
    index: Index, settings: Preprocessing, text: TextCounter | None = None, rows: range | None = None
) -> TokenCounts:
    """The costs of every sample, or of those rows of the index, under these settings, as `Preparer.sample` would find them.

    With the `text` that the index was made with, `llm_tokens` are exact for frames that play at the moments that they
    were planned for; a frame that plays earlier can make its time stamp a digit shorter. Upper bounds (`is_exact` False)
    are streams, which turns are dealt into, conversations that lose old turns to `max_length`, and videos of fewer frames
    than moments, of which only the frames' times tell how many are shown. Without `text`, or with another one, every
    token of text is counted as a byte and all is an upper bound.
    """
    is_counted = text is not None and text.identity == index.text_identity
    planner = _Planner(
        settings if is_counted else replace(settings, tokenizer=ByteTokenizer()), facts=_Columns(index, is_counted)
    )
    rows = range(len(index)) if rows is None else rows
    costs = np.zeros((len(rows), 5), np.int64)
    is_exact, is_usable = np.full(len(rows), is_counted), ~index.is_broken()[rows.start : rows.stop]
    for place in np.flatnonzero(is_usable).tolist():
        try:
            costs[place], is_exact[place] = planner.cost(rows[place])
        except (ValueError, MediaError):  # what Preparer raises for a sample that cannot fit
            is_usable[place] = False
    visual_tokens, frames, patches, vision_squares, llm_tokens = costs.T.copy()
    return TokenCounts(visual_tokens, frames, patches, vision_squares, llm_tokens, is_exact, is_usable)


@dataclass(frozen=True)
class _IndexedSample(Conversation):
    """A conversation without its text. Paths are rows of the media table."""

    text_length: int = 0  # tokens, without what the media bring


@dataclass(frozen=True)
class _Planner(Preparer):
    """A Preparer that asks the index where the other one opens files."""

    facts: _Columns = field(kw_only=True)
    seen: dict[tuple[object, ...], tuple[int, ...]] = field(default_factory=dict)  # media -> what they cost

    def cost(self, number: int) -> tuple[tuple[int, ...], bool]:
        """The first five fields of TokenCounts for one sample, and whether they are exact."""
        sample, limit = self._sample(number), self.settings.budget.max_length
        *costs, media_tokens, has_bound = self._of_media(sample)
        is_exact = self.facts.is_counted and not self.facts.is_stream[number] and not has_bound
        if is_exact and sample.text_length + media_tokens > limit:
            *costs, media_tokens, _ = self._measure(self._fit(*self.plan(sample, Path()))[1])
        length = sample.text_length + media_tokens
        if length <= limit:
            return (*costs, length), is_exact
        if is_exact and self.facts.num_turns[number] < 3:  # no old turns that could go
            raise ValueError(f"{length} tokens pass max_length")
        return (*costs, limit), False

    def _of_media(self, sample: _IndexedSample) -> tuple[int, ...]:
        """Result of `_measure` for the sample's media in the token budget; the same for files with the same facts."""
        if not sample.messages:
            return 0, 0, 0, 0, 0, 0
        parts = [(self.facts.info(int(part.path), ""), replace(part, path="")) for part in sample.media]
        key = (sample.messages[0].role, *parts)
        if key not in self.seen:
            if len(self.seen) >= _MOST_SEEN:
                self.seen.clear()
            self.seen[key] = self._measure(self.plan(sample, Path())[1])
        return self.seen[key]

    def _measure(self, plans: Sequence[MediaPlan | None]) -> tuple[int, ...]:
        """Visual tokens, frames, patches, their squares, tokens with the text around them, and 1 where all are bounds."""
        shown = [plan for plan in plans if plan is not None]
        if any(plan.has_frame_turns or not plan.is_counted for plan in shown):
            return self._bounds(shown)
        patches = [self._patches_of_frames(plan) for plan in shown]
        return (
            sum(plan.num_tokens(self.settings.patch_size) for plan in shown),
            sum(len(plan.timestamps) for plan in shown),
            sum(frames * each for frames, each in patches),
            sum(frames * each**2 for frames, each in patches),
            sum(self._media_tokens(plan) for plan in shown),
            0,
        )

    def _bounds(self, plans: Sequence[MediaPlan]) -> tuple[int, ...]:
        """The same for any number of frames up to those of the plans: no frame is larger than alone in the budget."""
        budget = self.settings.budget.token_budget
        alone = [self._budgeted([plan.at(torch.arange(1))], budget)[0] for plan in plans]
        counts = [len(plan.timestamps) for plan in plans]
        patches = [self._patches_of_frames(plan)[1] for plan in alone]
        largest = sum(n * one.num_tokens(self.settings.patch_size) for n, one in zip(counts, alone, strict=True))
        num_patches = min(
            sum(n * each for n, each in zip(counts, patches, strict=True)),
            budget * max(plan.merge_size for plan in plans) ** 2,
        )
        visual_tokens = min(budget, largest)
        text = sum(self._media_tokens(plan) - plan.num_tokens(self.settings.patch_size) for plan in plans)
        return visual_tokens, sum(counts), num_patches, num_patches * max(patches), visual_tokens + text, 1

    def _counted(self, plan: MediaPlan) -> MediaPlan:
        """As many moments as there may be frames, the last ones: no other times take more tokens."""
        most = min(len(plan.timestamps), plan.info.num_frames)
        return replace(plan.at(torch.arange(len(plan.timestamps))[-most:]), is_counted=False)

    def _sample(self, number: int) -> _IndexedSample:
        facts = self.facts
        parts = facts.parts(number)
        length = int(facts.text_lengths[number])
        if not facts.is_counted:
            length += _HEADER_TOKENS * (1 + int(facts.num_turns[number])) + len(self.settings.system_prompt.encode())
            length += sum(self._stand_in_tokens(part.modality) for part in parts)
        messages = (Message("stream" if facts.is_stream[number] else "user", parts),) if parts else ()
        return _IndexedSample(str(number), "", messages, text_length=length)

    def _info(self, part: MediaPart, root: Path | MediaRoot) -> MediaInfo:
        return self.facts.info(int(part.path), part.path)

    def _longest(self, conversation: Conversation, plans: Sequence[MediaPlan]) -> int:
        return self._planned_length(conversation, plans)

    def _planned_length(self, conversation: Conversation, plans: Sequence[MediaPlan | None]) -> int:
        assert isinstance(conversation, _IndexedSample)  # made by `_sample`
        return conversation.text_length + sum(self._media_tokens(plan) for plan in plans if plan is not None)

    def _media_tokens(self, plan: MediaPlan) -> int:
        """Tokens that an item brings beside those of its stand-in, which are in the text's."""
        if plan.is_stream:
            return self._stream_tokens(plan)
        return self._num_tokens(planned_item(plan), self.settings.patch_size) - self._stand_in_tokens(plan.modality)

    def _num_tokens(self, item: VisualItem, patch_size: int) -> int:
        """Tokens of an item's runs and the text around them."""
        return _count_pieces(media_pieces(item, patch_size, self.settings.clip_text), self.settings.tokenizer)

    def _stand_in_tokens(self, modality: Modality) -> int:
        """Tokens of text that a stand-in brings."""
        return self._num_tokens(stand_in(modality, self.settings.clip is not None), 1) - 1

    def _stream_tokens(self, plan: MediaPlan) -> int:
        """At most: every frame in a turn of its own, as `template.lay_out` writes it."""
        tokenizer = self.settings.tokenizer
        turn = _num_tokens("stream\n", tokenizer) + _num_tokens("\n", tokenizer) + 2  # and two special tokens
        around = turn + _num_tokens("Time", tokenizer) + _num_tokens("\n", tokenizer)
        stamps = (_num_tokens(f" {seconds:z.1f}s: ", tokenizer) for seconds in plan.stamps.tolist())
        return plan.num_tokens(self.settings.patch_size) + sum(around + stamp for stamp in stamps)

    def _patches_of_frames(self, plan: MediaPlan) -> tuple[int, int]:
        """Frames that the encoder sees of an item, and the patches of each; those of clips are padded to a square."""
        if plan.clip is not None:
            return plan.num_runs * plan.clip.num_frames, (plan.clip.image_size // self.settings.patch_size) ** 2
        height, width = plan.size
        return len(plan.timestamps), (height // self.settings.patch_size) * (width // self.settings.patch_size)


class _Columns:
    """The columns of an index that plans are made of."""

    def __init__(self, index: Index, is_counted: bool) -> None:
        self.is_counted = is_counted  # tokens of text, with the tokenizer that is used now
        self.text_lengths = index.sample_column("num_text_tokens" if is_counted else "text_bytes")
        self.num_turns = index.sample_column("num_turns")
        self.is_stream = index.sample_column("is_stream")
        self._uses, self._offsets = index.media_uses()
        self._media = {name: index.media_column(name) for name in _MEDIA_COLUMNS}

    def parts(self, number: int) -> tuple[MediaPart, ...]:
        """The media of a sample."""
        first, last = self._offsets[number : number + 2].tolist()
        return tuple(
            self._part(*use) for use in zip(*(column[first:last].tolist() for column in self._uses), strict=True)
        )

    def info(self, number: int, path: str) -> MediaInfo:
        """A file that is not broken, called `path`."""
        row = {name: column[number].item() for name, column in self._media.items()}
        modality = MODALITIES[row.pop("modality")]
        fps = row.pop("fps")
        return MediaInfo(path, modality, fps=none_if_nan(fps), codec="", **row)

    def _part(self, media: int, begin: float, end: float, fps: float, max_frames: int) -> MediaPart:
        modality = MODALITIES[self._media["modality"][media]]
        settings = map(none_if_nan, (begin, end, fps))
        return MediaPart(modality, str(media), *settings, max_frames=max_frames or None)


_MEDIA_COLUMNS = (
    "modality",
    "height",
    "width",
    "begin_seconds",
    "clock_start_seconds",
    "duration_seconds",
    "num_frames",
    "fps",
)


def _count_pieces(pieces: Iterable[Piece], tokenizer: ChatTokenizer) -> int:
    return sum(piece.repeat if piece.is_special else _num_tokens(piece.text, tokenizer) for piece in pieces)


@lru_cache(maxsize=2**17)  # stamps of three hours in tenths of a second
def _num_tokens(text: str, tokenizer: ChatTokenizer) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
