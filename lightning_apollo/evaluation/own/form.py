"""Metrics of own rows, by `--metric` or by the form of their expected answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from string import ascii_uppercase

from lightning_apollo.evaluation.asked import METRICS
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.text_scores import compared_words
from lightning_apollo.inference.parsers import Choice, find_choice, find_numbers, find_span

SCORES: dict[str, str] = {  # by the word of --metric
    **dict(zip(METRICS, ("exact_text", "choice", "span_overlap", "token_f1", "number", "relaxed"), strict=True))
}
TITLES = {
    "exact_text": "exact match",
    "choice": "choice",
    "span_overlap": "time span IoU",
    "token_f1": "token F1",
    "number": "number",
    "relaxed": "number within 5 %",
}
SHORT = 3  # tokens: where all texts of a kind are no longer, they are compared as a whole

_YES_OR_NO = (Choice("", "yes"), Choice("", "no"))
_OPTION = re.compile(r"(?:(?<=^)|(?<=\s))\(?([A-Za-z])[).:、]\s*(?=\S)", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?\s*%?\.?")
_UNIT = r"(?:h|hours?|m|mins?|minutes?|s|secs?|seconds?)\b"
_MOMENT = re.compile(rf"(?:\d+:)+\d+(?:\.\d+)?|(?:\d+(?:\.\d+)?\s*{_UNIT}\s*)+|\d*\.?\d+", re.IGNORECASE)
_BESIDE_MOMENTS = re.compile(
    r"[-–—~.,;:'\"\[\](){}<>]|\b(?:from|to|until|till|and|between|start|end|begin|time|span|it|is|the|happens|at)\b",
    re.IGNORECASE,
)
_SAYS_SPAN = re.compile(rf"\bfrom\b|\bbetween\b|\bstart\b|\d:\d|\d\.\d|\d\s*{_UNIT}", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """Metric of an expected answer."""

    metric: str  # one of metrics.SCORES
    answers: tuple[str, ...]
    choices: tuple[Choice, ...] = ()


def form_of(asked: str, expected: str, shows_video: bool, word: str | None = None) -> Form | None:
    """The form of an expected answer; with a word of `--metric` that form, or None where the answer does not have it.

    A text is scored by token F1 here; `short_texts_exact` looks at all texts of a kind.
    """
    makers = {"choice": _choice, "span": _span, "number": _number, "relaxed": _number}
    if word is not None:
        form = makers[word](asked, expected, True) if word in makers else Form(SCORES[word], (expected,))
        return form and replace(form, metric=SCORES[word])
    for make in (_choice, _span, _number):
        if (form := make(asked, expected, shows_video)) is not None:
            return form
    return Form("token_f1", (expected,))


def short_texts_exact(questions: Sequence[Question]) -> list[Question]:
    """The questions, those scored by token F1 by exact match instead where all such answers of their category are short."""
    long = {
        question.category
        for question in questions
        if question.metric == "token_f1" and any(len(compared_words(answer)) > SHORT for answer in question.answers)
    }
    return [
        replace(question, metric="exact_text")
        if question.metric == "token_f1" and question.category not in long
        else question
        for question in questions
    ]


def offered(asked: str) -> tuple[Choice, ...]:
    """The choices that a question lists as "A. ...", "(A) ..." or "a) ...", one to a line or all in one; the last such list."""
    marks = list(_OPTION.finditer(asked))
    begins = [number for number, mark in enumerate(marks) if mark[1].upper() == "A"]
    for begin in reversed(begins):
        letters = ascii_uppercase if marks[begin][1].isupper() else ascii_uppercase.lower()
        run = list(takewhile(lambda pair: pair[0][1] == pair[1], zip(marks[begin:], letters, strict=False)))
        if len(run) < 2:
            continue
        options = [mark for mark, _ in run]
        ends = [*(mark.start() for mark in options[1:]), len(asked)]
        texts = [asked[mark.end() : end] for mark, end in zip(options, ends, strict=True)]
        return tuple(
            Choice(mark[1], (text.strip().splitlines() or [""])[0].strip().rstrip(",;"))
            for mark, text in zip(options, texts, strict=True)
        )
    return ()


def said_in_one_line(questions: Iterable[Question], word: str | None) -> str:
    """Number of answers by metric."""
    counts = Counter(TITLES[question.metric] for question in questions)
    counted = ", ".join(f"{title} {count:,}" for title, count in counts.most_common())
    return f"scored by {counted} ({'as --metric says' if word else 'by the form of the expected answers; --metric sets it'})"


def _choice(asked: str, expected: str, shows_video: bool) -> Form | None:
    choices = offered(asked)
    index = find_choice(expected, choices) if choices else None
    if index is not None:
        return Form("choice", (choices[index].label,), choices)
    plain = expected.strip().strip(".!").lower()
    return Form("choice", (plain,), _YES_OR_NO) if plain in ("yes", "no") else None


def _span(asked: str, expected: str, shows_video: bool) -> Form | None:
    """Two moments and nothing else; a bare "3 - 5" is a span of a video alone."""
    span = find_span(expected)
    moments = _MOMENT.findall(expected)
    rest = _BESIDE_MOMENTS.sub(" ", _MOMENT.sub(" ", expected)).strip()
    if span is None or len(moments) != 2 or rest or re.fullmatch(r"\s*[\d.]+\s*[,;.]?\s*[\d.]*\s*", expected):
        return None
    if not (shows_video or _SAYS_SPAN.search(expected)):
        return None
    return Form("span_overlap", (f"{span[0]} - {span[1]}",))


def _number(asked: str, expected: str, shows_video: bool) -> Form | None:
    is_number = _NUMBER.fullmatch(expected.strip()) is not None and len(find_numbers(expected)) == 1
    return Form("number", (expected.strip(),)) if is_number else None
