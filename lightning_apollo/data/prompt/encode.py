"""From conversations to token ids and labels. A label is the id at its own position: the model shifts.

Text between special tokens is tokenised as one string, as the released template does; where a label begins or ends, a
new string begins. Special tokens never come from the text of an annotation, only from the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_apollo.data.conversation import Conversation, Role
from lightning_apollo.data.prompt.clip_text import PAPER_TEXT
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.template import ANSWER_HEADER, Piece, Turn, lay_out
from lightning_apollo.structures import IGNORE_INDEX, Sample, VisualItem


class ChatTokenizer(Protocol):
    """Protocol of a tokenizer; those of transformers have it."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...


@dataclass(frozen=True)
class EncodedTurn:
    """One turn as token ids."""

    role: Role
    input_ids: Tensor  # (T,) int64
    labels: Tensor  # (T,) int64
    is_placeholder: Tensor  # (T,) bool

    def __len__(self) -> int:
        return self.input_ids.numel()


def render_conversation(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    tokenizer: ChatTokenizer,
    patch_size: int,
    system_prompt: str = "",
    max_length: int | None = None,
    clip_text: ClipTextConfig = PAPER_TEXT,
) -> Sample:
    """The conversation as token ids with a label on every answer.

    `visuals_per_part` has one entry for each of `conversation.media`, in order; None leaves that part out of the text.
    `system_prompt` opens a conversation without a system turn; empty adds none. Above `max_length` tokens old turns go,
    see `truncate_before_last_answer`. `clip_text` says what stands between the clips of a video, where it has clips.
    """
    laid_out = lay_out(conversation, visuals_per_part, patch_size, system_prompt, clip_text)
    turns = [_encode(turn, tokenizer) for turn in laid_out]
    if max_length is not None:
        turns = truncate_before_last_answer(turns, max_length, conversation.sample_id)
    sample = _sample(conversation, visuals_per_part, turns, patch_size)
    if sample.num_labels == 0:
        raise ValueError(f"{conversation.sample_id}: no token carries a label: a training sample needs an answer")
    return sample


def count_tokens(turns: Iterable[Turn], tokenizer: ChatTokenizer) -> int:
    """Tokens of the turns, without making them: text that comes back in the rendering is tokenised once for both."""
    kinds = (
        (is_special, list(pieces))
        for turn in turns
        for (is_special, _), pieces in groupby(turn.pieces, key=lambda piece: (piece.is_special, piece.is_labelled))
    )
    return sum(
        sum(piece.repeat for piece in pieces)
        if is_special
        else len(_text_ids("".join(piece.text for piece in pieces), tokenizer))
        for is_special, pieces in kinds
    )


def render_prompt(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    tokenizer: ChatTokenizer,
    patch_size: int,
    system_prompt: str = "",
    clip_text: ClipTextConfig = PAPER_TEXT,
) -> Sample:
    """The ids that ask for the last answer: all turns before it, then the assistant's header, and no label at all."""
    turns = _prompt_turns(conversation, visuals_per_part, patch_size, system_prompt, clip_text)
    sample = _sample(conversation, visuals_per_part, [_encode(turn, tokenizer) for turn in turns], patch_size)
    return replace(sample, labels=torch.full_like(sample.labels, IGNORE_INDEX))


def prompt_text(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    patch_size: int,
    system_prompt: str = "",
    clip_text: ClipTextConfig = PAPER_TEXT,
) -> str:
    """The prompt of `render_prompt` for people to read: a run of 50 placeholders is written <image>*50."""
    turns = _prompt_turns(conversation, visuals_per_part, patch_size, system_prompt, clip_text)
    pieces = (piece for turn in turns for piece in turn.pieces)
    return "".join(f"{piece.text}*{piece.repeat}" if piece.is_placeholder else piece.text for piece in pieces)


def truncate_before_last_answer(turns: Sequence[EncodedTurn], max_length: int, sample_id: str) -> list[EncodedTurn]:
    """The turns without the oldest exchanges (a question and its answers), as many as it takes to fit `max_length`.

    System turns, exchanges that show media and the last exchange stay whole: no visual token and no token of the last
    answer is ever cut. A stream stays whole too, as its answers refer to what was asked long before.
    """
    exchanges: list[list[EncodedTurn]] = [[]]  # what comes before the first question is an exchange that stays
    for turn in turns:
        if turn.role == "user":
            exchanges.append([])
        exchanges[-1].append(turn)
    excess = sum(map(len, turns)) - max_length
    may_go = [] if any(turn.role == "stream" for turn in turns) else exchanges[1:-1]
    for exchange in may_go:
        if excess > 0 and not any(turn.role == "system" or bool(turn.is_placeholder.any()) for turn in exchange):
            excess -= sum(map(len, exchange))
            exchange.clear()
    if excess > 0:
        raise ValueError(
            f"{sample_id}: {max_length + excess} tokens that must stay, but max_length is {max_length}: "
            "raise data.budget.max_length or lower data.budget.token_budget"
        )
    return [turn for exchange in exchanges for turn in exchange]


def _prompt_turns(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    patch_size: int,
    system_prompt: str,
    clip_text: ClipTextConfig,
) -> list[Turn]:
    messages = conversation.messages
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    asked = replace(conversation, messages=messages)
    return [*lay_out(asked, visuals_per_part, patch_size, system_prompt, clip_text), ANSWER_HEADER]


def _encode(turn: Turn, tokenizer: ChatTokenizer) -> EncodedTurn:
    input_ids: list[int] = []
    labels: list[int] = []
    is_placeholder: list[bool] = []
    for (is_special, is_labelled), group in groupby(
        turn.pieces, key=lambda piece: (piece.is_special, piece.is_labelled)
    ):
        ids, placeholders = _piece_ids(list(group), is_special, tokenizer)
        input_ids += ids
        labels += ids if is_labelled and turn.is_learnt else [IGNORE_INDEX] * len(ids)
        is_placeholder += placeholders
    return EncodedTurn(turn.role, torch.tensor(input_ids), torch.tensor(labels), torch.tensor(is_placeholder))


def _piece_ids(pieces: Sequence[Piece], is_special: bool, tokenizer: ChatTokenizer) -> tuple[list[int], list[bool]]:
    """The ids of neighbouring pieces of one kind, and which of them are placeholders."""
    ids: list[int] = []
    is_placeholder: list[bool] = []
    if is_special:
        for piece in pieces:
            ids += [tokenizer.convert_tokens_to_ids(piece.text)] * piece.repeat
            is_placeholder += [piece.is_placeholder] * piece.repeat
        return ids, is_placeholder
    ids += _text_ids("".join(piece.text for piece in pieces), tokenizer)
    return ids, [False] * len(ids)


@lru_cache(maxsize=4096)  # stamps and headers come back in every sample, and a call of the tokenizer costs 0.1 ms
def _text_ids(text: str, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _sample(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    turns: Iterable[EncodedTurn],
    patch_size: int,
) -> Sample:
    turns = list(turns)
    return Sample(
        sample_id=conversation.sample_id,
        source=conversation.source,
        input_ids=torch.cat([turn.input_ids for turn in turns]),
        labels=torch.cat([turn.labels for turn in turns]),
        is_placeholder=torch.cat([turn.is_placeholder for turn in turns]),
        visuals=tuple(item for item in visuals_per_part if item is not None),
        patch_size=patch_size,
    )
