"""What an answer in words means: which of the choices it names, which time span, which boxes, which numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_LEAD = r"(?:the\s+)?(?:(?:best|correct|right)\s+)?(?:answer|option|choice|caption|sentence)(?:\s+is)?\s*:?\s*"
_NUMBER = r"\d+(?:\.\d+)?"
_SPAN = re.compile(rf"({_NUMBER})\s*(?:s|sec|seconds)?\s*(?:-|–|to|and)\s*({_NUMBER})")

_BOX = re.compile(r"[\[(<]\s*" + r"\s*,\s*".join([rf"({_NUMBER})"] * 4) + r"\s*[\])>]")


class Choice(NamedTuple):
    """One of the answers that a prompt offers."""

    label: str  # how the prompt calls it: "A"; "" where it is offered by its text alone
    text: str


class Box(NamedTuple):
    """A rectangle in the unit of the answer: pixels, thousandths or shares of the picture, as the model was taught."""

    left: float
    top: float
    right: float
    bottom: float


def find_choice(answer: str, choices: Sequence[Choice]) -> int | None:
    """The position of the choice that the answer names; None where it names none, or several.

    Looked at in this order: the whole answer is a label or a text ("b.", "(B)", "walking"); it begins with a label
    ("B. walking", "Option B: ..."); it says which ("... so the answer is B"); one label stands in brackets; one label
    stands as a word; one text occurs, the longest where texts lie inside each other. In "A man walks" A is an article.
    """
    whole = _plain(answer)
    for index, choice in enumerate(choices):
        if whole and whole in (choice.label.lower(), _plain(choice.text), _plain(f"{choice.label} {choice.text}")):
            return index
    label = _find_label(answer, [choice.label for choice in choices if choice.label])
    if label is None:
        return _find_text(answer, choices)
    return [choice.label for choice in choices].index(label)


def _find_label(answer: str, labels: Sequence[str]) -> str | None:
    if not labels:
        return None
    word = rf"((?:{'|'.join(map(re.escape, labels))})(?![\w'])(?!(?<=[AI])\s+(?!(?:is|and|or)\b)[a-z]))"
    opening = re.match(rf"\W*(?i:{_LEAD})?(?i:(?<!\w)){word}", answer)
    if opening:
        return opening[1]
    said = re.findall(rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*[(\[*]*{word}", answer)
    if said:
        return said[-1]
    for found in (set(re.findall(rf"[(\[]{word}[)\]]", answer)), set(re.findall(rf"(?<![\w']){word}", answer))):
        if len(found) == 1:
            return found.pop()
    return None


def _find_text(answer: str, choices: Sequence[Choice]) -> int | None:
    """The one choice whose text occurs as words, the longest of nested ones; of several, the one that opens the answer
    with a comma or full stop behind it ("No, ...")."""
    plain = f" {_plain(answer)} "
    found = [index for index, choice in enumerate(choices) if f" {_plain(choice.text)} " in plain]
    outer = [
        index
        for index in found
        if not any(index != other and _plain(choices[index].text) in _plain(choices[other].text) for other in found)
    ]
    opening = [index for index in outer if re.match(rf"\W*(?i:{re.escape(choices[index].text)})[.,;:!\n]", answer)]
    return next((named[0] for named in (outer, opening) if len(named) == 1), None)


def _plain(text: str) -> str:
    """Lower case, words alone: without punctuation at their ends and with one space between them."""
    return " ".join(word for word in (word.strip(".,;:!?()[]\"'*") for word in text.lower().split()) if word)


def find_span(answer: str) -> tuple[float, float] | None:
    """Begin and end in seconds: the first "x - y" or "x to y", else the first two numbers; None below two numbers.

    VideoLLaMA 3 reads Charades-STA's answers alike (evaluation/benchmarks/charades_sta.py), but adds up all spans of an
    answer that has several.
    """
    numbers = match.groups() if (match := _SPAN.search(answer)) else re.findall(_NUMBER, answer)[:2]
    if len(numbers) < 2:
        return None
    first, second = (float(number) for number in numbers)
    return min(first, second), max(first, second)


def find_boxes(answer: str) -> list[Box]:
    """All boxes that the answer writes as four numbers in brackets, "[10, 20, 110, 220]", whichever corners they name."""
    boxes: list[Box] = []
    for match in _BOX.finditer(answer):
        x, y, other_x, other_y = (float(number) for number in match.groups())
        boxes.append(Box(min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)))
    return boxes


def find_numbers(answer: str) -> list[float]:
    """All numbers of the answer, with commas of thousands and signs read: "-1,200.5" is one."""
    found = re.findall(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?", answer)
    return [float(number.replace(",", "")) for number in found]
