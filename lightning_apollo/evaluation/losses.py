"""Losses of expected answers, read from files of answers and drawn anew for intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_apollo.evaluation import bootstrap
from lightning_apollo.evaluation.answer_files import Answer
from lightning_apollo.evaluation.question import Question


def losses_of(questions: Sequence[Question], answers: Mapping[str, Answer]) -> tuple[list[float], list[int]] | None:
    """Loss sums and numbers of tokens of the questions' answers; None where one has none."""
    found = [answers[question.question_id] for question in questions]
    sums = [answer.loss_sum for answer in found if answer.loss_sum is not None]
    counts = [answer.num_tokens for answer in found if answer.num_tokens is not None]
    return (sums, counts) if len(sums) == len(counts) == len(questions) else None


def loss_draws(questions: Sequence[Question], sums: Sequence[float], counts: Sequence[int]) -> bootstrap.Array:
    """The loss of each draw of the scenes, (R,)."""
    scenes = [question.scene for question in questions]
    return bootstrap.draws(sums, [""] * len(sums), scenes, bootstrap.mean_of_weights, weights=counts)
