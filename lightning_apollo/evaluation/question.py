"""Benchmark question: media, text and expected answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.results import ResultsError
from lightning_apollo.inference.parsers import Choice

PLACEMENTS = ("above", "between")  # subtitles in front of the question, or each between the frames where it is spoken


class BenchmarkError(ResultsError):
    """A benchmark that cannot be read or gone on with; the message is one line with what to do."""


@dataclass(frozen=True)
class Subtitle:
    """Subtitle between two moments of a video, on its own clock."""

    begin_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True)
class Question:
    """A question about images or a video, whichever benchmark it comes from."""

    question_id: str  # no other question of the benchmark has it
    parts: tuple[TextPart | MediaPart, ...]  # the turn of the user, paths relative to the benchmark's folder
    answers: tuple[
        str, ...
    ]  # each of them is right: a choice by its label, or its text without one; a span as "1.5 - 4.0" s
    metric: str  # by which an answer is scored, one of metrics.SCORES
    choices: tuple[Choice, ...] = ()
    groups: tuple[
        tuple[str, str], ...
    ] = ()  # (what is told apart, kind): ("duration", "short"); sub-scores in this order
    subtitles: tuple[Subtitle, ...] = ()
    subtitle_placement: str = "above"  # one of PLACEMENTS

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError(f"{self.question_id}: no answer is right")
        if self.subtitle_placement not in PLACEMENTS:
            raise ValueError(f"{self.question_id}: subtitles stand {' or '.join(PLACEMENTS)}")
        names = [choice.label or choice.text for choice in self.choices]
        if self.choices and not set(self.answers) <= set(names):
            raise ValueError(f"{self.question_id}: the answer {self.answers[0]!r} is none of {', '.join(names)}")

    @property
    def media(self) -> tuple[MediaPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, MediaPart))

    @property
    def text(self) -> str:
        """Text of the question, media aside."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def scene(self) -> str:
        """Group of questions that stand or fall together: the first file that they show."""
        return self.media[0].path if self.media else self.question_id

    @property
    def category(self) -> str:
        """The first of its kinds, the one that files of results name."""
        return self.groups[0][1] if self.groups else ""

    @property
    def fingerprint(self) -> str:
        """A hash of what is shown and asked: an answer to other words is an answer to another question."""
        asked = (self.parts, self.choices, self.subtitles, self.subtitle_placement)
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


def lettered(texts: Sequence[str]) -> tuple[Choice, ...]:
    """The choices A, B, C and so on."""
    return tuple(Choice(label, text.strip()) for label, text in zip(ascii_uppercase, texts, strict=False))


def listed(choices: Sequence[Choice], form: str = "({0}) {1}") -> str:
    """The choices one to a line, each with a line break behind it; `form` takes label and text."""
    return "".join(form.format(*choice) + "\n" for choice in choices)
