"""Answers of a model to questions, and what is made of them: accuracy by kind, and lines of a file of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_apollo.evaluation.metrics import ExactMatch, score_of
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.results import QuestionResult

RIGHT = 0.5  # the score from which an answer counts as right in a file of results, where there are scores in between


@dataclass(frozen=True)
class Prediction:
    """A question with a model's answer."""

    question: Question
    answer: str


def accuracy(predictions: Sequence[Prediction]) -> dict[str, float]:
    """The share of exactly right answers of every category of question, in the order in which the categories appear."""
    metrics: dict[str, ExactMatch] = {}
    for prediction in predictions:
        metric = metrics.setdefault(prediction.question.category, ExactMatch())
        metric.update(prediction.answer, prediction.question.answers[0])
    return {category: float(metric.compute()) for category, metric in metrics.items()}


def results(predictions: Sequence[Prediction], benchmark: str, model: str, mode: str) -> list[QuestionResult]:
    """What a file of results says about a model's answers to a benchmark in one of results.MODES."""
    return [
        QuestionResult(
            benchmark=benchmark,
            question_id=prediction.question.question_id,
            category=prediction.question.category,
            model=model,
            mode=mode,
            answer=prediction.answer,
            expected=prediction.question.answers[0],
            is_right=score_of(prediction.answer, prediction.question) >= RIGHT,
        )
        for prediction in predictions
    ]
