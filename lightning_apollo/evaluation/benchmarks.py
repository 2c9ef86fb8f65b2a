"""Asking a trained model the questions of a benchmark, with the very sampler and preprocessing of its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.data.rows import Conversation, MediaPart, Message, TextPart
from lightning_apollo.evaluation.metrics import ExactMatch, is_exact_match
from lightning_apollo.evaluation.results import QuestionResult
from lightning_apollo.inference.generate import GREEDY, DrawConfig, generate
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.structures import Sample

SHAPES = "shapes"  # the name of the built-in set in files of results


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question about one video, its answer, and the answers that its wording leaves open."""

    question_id: str
    video: str  # relative to the benchmark's root
    question: str
    answer: str
    kind: str
    is_temporal: bool  # needs more than one frame
    choices: tuple[str, ...]

    @property
    def chance(self) -> float:
        return 1 / len(self.choices)

    def conversation(self) -> Conversation:
        parts = (MediaPart("video", self.video), TextPart(self.question))
        return Conversation(self.question_id, "benchmark", (Message("user", parts),))


@dataclass(frozen=True)
class Prediction:
    question: BenchmarkQuestion
    answer: str


def read_shapes(root: Path) -> list[BenchmarkQuestion]:
    """The questions about the held-out clips of the built-in set (data/shapes.py)."""
    rows = (json.loads(line) for line in (root / "held_out_questions.jsonl").read_text().splitlines())
    return [
        BenchmarkQuestion(
            question_id=row["id"],
            video=row["video"],
            question=row["question"],
            answer=row["answer"],
            kind=row["type"],
            is_temporal=row["temporal"],
            choices=tuple(row["choices"]),
        )
        for row in rows
    ]


def ask(
    trained: TrainedModel,
    questions: Sequence[BenchmarkQuestion],
    root: Path,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 16,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Prediction]:
    """Yields the greedy answer to each question, in order; `advance` is told how many are done after every batch."""
    for start in range(0, len(questions), batch_size):
        group = questions[start : start + batch_size]
        prompts = [trained.preparer.prompt(question.conversation(), root) for question in group]
        answers = answer_prompts(trained, prompts, max_new_tokens)
        yield from map(Prediction, group, answers)
        advance(len(group))


def answer_prompts(
    trained: TrainedModel, prompts: Sequence[Sample], max_new_tokens: int, draw: DrawConfig = GREEDY
) -> list[str]:
    """The answer to each prompt, without special tokens and outer white space."""
    answers = generate(trained.model, prompts, trained.end_id, max_new_tokens, draw)
    return [str(trained.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]


def accuracy(predictions: Sequence[Prediction]) -> dict[str, float]:
    """The share of right answers of every kind of question, in the order in which the kinds appear."""
    metrics: dict[str, ExactMatch] = {}
    for prediction in predictions:
        metric = metrics.setdefault(prediction.question.kind, ExactMatch())
        metric.update(prediction.answer, prediction.question.answer)
    return {kind: float(metric.compute()) for kind, metric in metrics.items()}


def results(predictions: Sequence[Prediction], model: str, mode: str) -> list[QuestionResult]:
    """What a file of results says about a model's answers to the built-in set in one of results.MODES."""
    return [
        QuestionResult(
            benchmark=SHAPES,
            question_id=prediction.question.question_id,
            category=prediction.question.kind,
            model=model,
            mode=mode,
            answer=prediction.answer,
            expected=prediction.question.answer,
            is_right=is_exact_match(prediction.answer, prediction.question.answer),
        )
        for prediction in predictions
    ]
