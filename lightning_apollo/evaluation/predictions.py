"""Answers of a model to questions: accuracy by kind and lines of a results file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def results(
    predictions: Sequence[Prediction],
    benchmark: str,
    model: str,
    mode: str,
    score: Callable[[str, Question], float | None] = score_of,
) -> list[QuestionResult]:
    """Correctness of a model's answers in one of results.MODES from a file of results, those without a score aside."""
    scores = [score(prediction.answer, prediction.question) for prediction in predictions]
    return [
        QuestionResult(
            benchmark=benchmark,
            question_id=prediction.question.question_id,
            category=prediction.question.category,
            model=model,
            mode=mode,
            answer=prediction.answer,
            expected=prediction.question.answers[0],
            is_right=value >= RIGHT,
        )
        for prediction, value in zip(predictions, scores, strict=True)
        if value is not None
    ]
