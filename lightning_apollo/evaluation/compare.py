"""Two models on the same questions: the difference of their scores, paired question by question.

Both models' scores are drawn with the same scenes in every draw, so that what is hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_apollo.evaluation import bootstrap
from lightning_apollo.evaluation.answer_files import Answer
from lightning_apollo.evaluation.curate.report import TITLES, TextGrid
from lightning_apollo.evaluation.figures import ALL
from lightning_apollo.evaluation.losses import loss_draws, losses_of
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.registry import Benchmark
from lightning_apollo.evaluation.table import by_kind

Answers = Mapping[str, Answer]  # by question id


@dataclass(frozen=True)
class Difference:
    """A figure of two models on the questions that both have answered, and the second's less the first's."""

    name: str
    first: float
    second: float
    low: float  # of the difference's 95 % interval
    high: float
    num_answers: int

    @property
    def value(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """The second model against the first in one mode."""

    title: str
    mode: str  # one of results.MODES
    models: tuple[str, str]
    scores: tuple[Difference, ...]  # the first one is that of all questions
    losses: tuple[Difference, ...]  # of own rows

    def grids(self) -> list[TextGrid]:
        grids = [self._grid("score", self.scores, ".1f")]
        return [*grids, self._grid("loss", self.losses, ".3f")] if self.losses else grids

    def remark(self) -> str:
        """The difference of all questions in words."""
        one = self.scores[0]
        if one.low <= 0.0 <= one.high:
            return f"The interval holds 0: {one.num_answers:,} answers do not tell the two models apart."
        better = self.models[one.value > 0]
        return (
            f"{better} is better by {abs(one.value):.1f} on the {one.num_answers:,} questions that both have answered."
        )

    def _grid(self, what: str, differences: Sequence[Difference], form: str) -> TextGrid:
        rows = tuple(
            (
                one.name,
                f"{one.first:{form}}",
                f"{one.second:{form}}",
                f"{one.value:+{form}}",
                f"{one.low:+{form}} to {one.high:+{form}}",
                f"{one.num_answers:,}",
            )
            for one in differences
        )
        head = ("", *self.models, "difference", "95 % interval", "answers")
        return TextGrid(f"{self.title}: {TITLES[self.mode]}, paired difference of {what}", head, rows)


def compare(
    benchmark: Benchmark,
    questions: Sequence[Question],
    first: Answers,
    second: Answers,
    models: tuple[str, str],
    mode: str,
) -> Comparison:
    """The comparison on the questions that both models have answered; BenchmarkError where there is none."""
    shared = [q for q in questions if q.question_id in first and q.question_id in second]
    if not shared:
        raise BenchmarkError(f"{benchmark.title}: no question has an answer of both models")
    parts = {ALL: shared, **dict(by_kind(shared))}
    scores = [
        _of_scores(name, benchmark if name == ALL else benchmark.of_a_part, part, first, second)
        for name, part in parts.items()
    ]
    losses = [_of_losses(name, part, first, second) for name, part in parts.items()]
    kept = tuple(loss for loss in losses if loss is not None)
    return Comparison(benchmark.title, mode, models, tuple(scores), kept)


def _of_scores(
    name: str, benchmark: Benchmark, questions: Sequence[Question], first: Answers, second: Answers
) -> Difference:
    values = [[score_of(said[q.question_id].answer, q) for q in questions] for said in (first, second)]
    drawn = [benchmark.draws(scores, questions) for scores in values]
    before, after = (benchmark.score(scores, questions) for scores in values)
    return Difference(name, before, after, *bootstrap.bounds(drawn[1] - drawn[0]), len(questions))


def _of_losses(name: str, questions: Sequence[Question], first: Answers, second: Answers) -> Difference | None:
    before, after = losses_of(questions, first), losses_of(questions, second)
    if before is None or after is None:
        return None
    drawn = loss_draws(questions, *after) - loss_draws(questions, *before)
    one, other = (sum(sums) / sum(counts) for sums, counts in (before, after))
    return Difference(name, one, other, *bootstrap.bounds(drawn), len(questions))
