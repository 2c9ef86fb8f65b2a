"""Scores and losses of own rows, in total and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_apollo.evaluation import bootstrap
from lightning_apollo.evaluation.answer_files import Answer
from lightning_apollo.evaluation.curate.report import TITLES, TextGrid
from lightning_apollo.evaluation.figures import ALL
from lightning_apollo.evaluation.losses import loss_draws, losses_of
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.registry import Benchmark
from lightning_apollo.evaluation.table import ScoreTable, by_kind, tabulate_scores


@dataclass(frozen=True)
class LossRow:
    """Loss of the expected answers with its 95 % interval, in nats a token."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OwnTable:
    """Scores of a model on own rows in one mode, and its losses by the names of the rows of scores."""

    scores: ScoreTable
    losses: Mapping[str, LossRow]  # empty where no loss was asked for

    def grid(self) -> TextGrid:
        rows = tuple(
            (
                row.name,
                f"{row.value:.1f}",
                f"{row.low:.1f} to {row.high:.1f}",
                *self._loss(row.name),
                f"{row.num_answers:,}",
            )
            for row in self.scores.rows
        )
        losses = ("loss", "95 % interval") if self.losses else ()
        title = f"{self.scores.title}: {TITLES[self.scores.mode]}"
        return TextGrid(title, ("", "score", "95 % interval", *losses, "answers"), rows)

    def remarks(self) -> list[str]:
        """Remarks needed to read the table, a line each."""
        lines = self.scores.remarks()
        if sum(row.name.startswith("scored by: ") for row in self.scores.rows):
            lines.append("The score of rows with several metrics is the mean over their answers.")
        if self.losses:
            lines.append("Loss is in nats a token of the expected answers, its end included.")
        return lines

    def _loss(self, name: str) -> tuple[str, ...]:
        if not self.losses:
            return ()
        row = self.losses.get(name)
        return ("", "") if row is None else (f"{row.value:.3f}", f"{row.low:.3f} to {row.high:.3f}")


def tabulate_own(
    benchmark: Benchmark, questions: Sequence[Question], answers: Mapping[str, Answer], mode: str, num_broken: int
) -> OwnTable:
    """The table of one answer or more, given by question id; broken rows count as questions without an answer."""
    scores = tabulate_scores(benchmark, questions, {name: answer.answer for name, answer in answers.items()}, mode)
    scores = ScoreTable(scores.benchmark, scores.title, mode, scores.num_questions + num_broken, scores.rows)
    answered = [question for question in questions if question.question_id in answers]
    parts = {ALL: answered, **dict(by_kind(answered))}
    losses = {name: _loss_row(part, answers) for name, part in parts.items()}
    return OwnTable(scores, {name: row for name, row in losses.items() if row is not None})


def _loss_row(questions: Sequence[Question], answers: Mapping[str, Answer]) -> LossRow | None:
    losses = losses_of(questions, answers)
    if losses is None:
        return None
    return LossRow(sum(losses[0]) / sum(losses[1]), *bootstrap.bounds(loss_draws(questions, *losses)))
