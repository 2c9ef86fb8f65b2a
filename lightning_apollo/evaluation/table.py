"""Score table of a benchmark: all questions and each kind, with intervals and the papers' scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightning_apollo.evaluation.curate.report import TITLES, TextGrid
from lightning_apollo.evaluation.figures import ALL, FIGURES
from lightning_apollo.evaluation.judge import VERDICTS, JudgeError
from lightning_apollo.evaluation.metrics import RECALL_THRESHOLDS, score_of, span_overlap
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.registry import Benchmark


@dataclass(frozen=True)
class ScoreRow:
    """One score with its 95 % interval, in per cent or in the benchmark's own points."""

    name: str  # "all", or what is told apart and the kind: "duration: short"
    value: float
    low: float
    high: float
    num_answers: int


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a model on a benchmark in one mode."""

    benchmark: str
    title: str
    mode: str  # one of results.MODES
    num_questions: int  # asked or not
    rows: tuple[ScoreRow, ...]  # the first one is that of all questions
    num_unjudged: int = 0  # answers that a judge has not decided

    def grid(self) -> TextGrid:
        """The table to print. A figure of a paper stands in the row that it belongs to."""
        figures = FIGURES.get(self.benchmark, ())
        models = tuple(dict.fromkeys(figure.model for figure in figures))
        reported = {(figure.row, figure.model): f"{figure.value:g}" for figure in figures}
        rows = tuple(
            (
                row.name,
                f"{row.value:.1f}",
                f"{row.low:.1f} to {row.high:.1f}",
                f"{row.num_answers:,}",
                *(reported.get((row.name, model), "") for model in models),
            )
            for row in self.rows
        )
        shown = TITLES[self.mode]
        return TextGrid(f"{self.title}: {shown}", ("", "score", "95 % interval", "answers", *models), rows)

    def remarks(self) -> list[str]:
        """Remarks needed to read the table, a line each: what is missing, and where the figures come from."""
        lines = []
        missing = self.num_questions - self.rows[0].num_answers - self.num_unjudged
        if missing:
            lines.append(f"{missing:,} of {self.num_questions:,} questions have no answer and count for nothing.")
        if self.num_unjudged:
            lines.append(f"{self.num_unjudged:,} answers got no verdict from the judge and count for nothing.")
        figures = FIGURES.get(self.benchmark, ())
        for source, note in dict.fromkeys((figure.source, figure.note) for figure in figures):
            models = ", ".join(figure.model for figure in figures if (figure.source, figure.note) == (source, note))
            lines.append(f"{models}: {source}{f' ({note})' if note else ''}.")
        return lines


def tabulate_scores(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    mode: str,
    score: Callable[[str, Question], float | None] = score_of,
) -> ScoreTable:
    """The table of one answer or more, given by question id; questions without one, or without a score, are counted alone."""
    judged = {q.question_id: score(answers[q.question_id], q) for q in questions if q.question_id in answers}
    scores = {name: value for name, value in judged.items() if value is not None}
    if not scores:
        raise JudgeError(
            f"the judge decided on no answer of {benchmark.title}: {VERDICTS} beside the answers has its replies"
        )
    answered = [question for question in questions if question.question_id in scores]
    part = benchmark.of_a_part
    rows = [_row(ALL, benchmark, answered, scores)]
    if all(question.metric == span_overlap.__name__ for question in answered):
        for threshold in RECALL_THRESHOLDS:
            found = {name: float(overlap >= threshold) for name, overlap in scores.items()}
            rows.append(_row(f"R@1, overlap of {threshold:g}", part, answered, found))
    rows += [_row(name, part, of_kind, scores) for name, of_kind in by_kind(answered)]
    return ScoreTable(benchmark.name, benchmark.title, mode, len(questions), tuple(rows), len(judged) - len(scores))


def by_kind(questions: Sequence[Question]) -> Iterator[tuple[str, list[Question]]]:
    """Yield the name of a row and its questions, for every kind on every axis."""
    for axis in dict.fromkeys(axis for question in questions for axis, _ in question.groups):
        for kind in sorted({kind for question in questions for name, kind in question.groups if name == axis}):
            yield f"{axis}: {kind}", [question for question in questions if (axis, kind) in question.groups]


def _row(name: str, benchmark: Benchmark, questions: Sequence[Question], scores: Mapping[str, float]) -> ScoreRow:
    values = [scores[question.question_id] for question in questions]
    low, high = benchmark.interval(values, questions)
    return ScoreRow(name, benchmark.score(values, questions), low, high, len(questions))
