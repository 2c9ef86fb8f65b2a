"""The text of a sample exactly as its token ids say it, in spans that carry the label mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightning_apollo.structures import IGNORE_INDEX, Sample

_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character whose others are to come
_LONGEST_CHARACTER = 4  # tokens: no character has more bytes


@dataclass(frozen=True)
class TextSpan:
    """A token, the tokens of one character, or a whole run of placeholders."""

    text: str
    hover: str  # position and token id
    is_trained: bool  # the loss is taken on it
    is_special: bool = False
    is_visual: bool = False


def text_spans(sample: Sample, tokenizer: PreTrainedTokenizerBase, keep_mask: Tensor | None) -> Iterator[TextSpan]:
    """Yield all tokens of the sample in order; `keep_mask` (M,) says which visual tokens reach the LLM, None: not known."""
    ids = sample.input_ids.tolist()
    is_trained = (sample.labels != IGNORE_INDEX).tolist()
    is_trained[0] = False  # nothing comes before the first token from which it could be predicted
    places = zip(sample.is_placeholder.tolist(), is_trained, strict=True)
    num_visual = 0  # tokens so far
    position = 0
    for (is_visual, trained), group in groupby(places):
        end = position + len(list(group))
        if is_visual:
            own = None if keep_mask is None else keep_mask[num_visual : num_visual + end - position]
            yield _run(ids[position:end], position, tokenizer, own)
            num_visual += end - position
        else:
            yield from _words(ids[position:end], position, tokenizer, trained)
        position = end


def _run(ids: list[int], position: int, tokenizer: PreTrainedTokenizerBase, keep_mask: Tensor | None) -> TextSpan:
    """All placeholders of one run: <image> ×144, or <image> ×144, 36 kept."""
    text = f"{tokenizer.decode(ids[:1])} ×{len(ids)}"
    if keep_mask is not None and not keep_mask.all():
        text += f", {int(keep_mask.sum())} kept"
    return TextSpan(
        text, _hover(ids[:1], position, position + len(ids)), is_trained=False, is_special=True, is_visual=True
    )


def _words(ids: list[int], first: int, tokenizer: PreTrainedTokenizerBase, is_trained: bool) -> Iterator[TextSpan]:
    """One span for each token; tokens that are one character together make one."""
    special, begin = set(tokenizer.added_tokens_decoder), 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[begin:end], clean_up_tokenization_spaces=False))
        is_part = text.endswith(_UNFINISHED) and end < len(ids) and end - begin < _LONGEST_CHARACTER
        if is_part and ids[end] not in special:
            continue
        hover = _hover(ids[begin:end], first + begin, first + end)
        yield TextSpan(_visible(text), hover, is_trained, is_special=ids[begin] in special)
        begin = end


def _visible(text: str) -> str:
    """The text with a sign for every character that has none of its own; a line still ends where it does."""
    signs = {"\n": "↵\n", "\t": "⇥", " ": " "}
    return "".join(signs.get(one, one if one.isprintable() else f"⟨U+{ord(one):04X}⟩") for one in text)


def _hover(ids: list[int], begin: int, end: int) -> str:
    place = f"position {begin}" if end == begin + 1 else f"positions {begin} to {end - 1}"
    return f"{place} · id {', '.join(map(str, ids))}"
