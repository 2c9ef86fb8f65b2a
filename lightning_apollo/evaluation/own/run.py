"""Ask the questions of own rows and compute losses of their answers. A prompt is the training sample, cut in front
of its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.evaluation.answer_files import Answer, read_answers, read_quarantine
from lightning_apollo.evaluation.own.form import said_in_one_line
from lightning_apollo.evaluation.own.rows import OwnRows
from lightning_apollo.evaluation.own.table import OwnTable, tabulate_own
from lightning_apollo.evaluation.own.teacher_forcing import AnswerLoss, answered_sample, prompt_of
from lightning_apollo.evaluation.predictions import Prediction
from lightning_apollo.evaluation.predictions import results as results_of
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.ranks import ONE_PROCESS, Ranks
from lightning_apollo.evaluation.registry import Benchmark
from lightning_apollo.evaluation.results import MODES, write_results
from lightning_apollo.evaluation.run import Answerer, EvaluationConfig, EvaluationRun, Spoken, collect
from lightning_apollo.files import write_atomically
from lightning_apollo.progress import Progress
from lightning_apollo.structures import Sample

MIN_NEW_TOKENS = 16  # that an answer may have; where expected ones are longer than half of it, twice their length

Measure = Callable[[Sequence[Sample]], Sequence[AnswerLoss]]  # the losses of samples that end with their answer


@dataclass(frozen=True)
class OwnOutcome:
    """Answers of a model to own rows, earlier runs included."""

    run: EvaluationRun
    rows: OwnRows
    answers: Mapping[str, Mapping[str, Answer]]  # by mode, then by question id
    tables: tuple[OwnTable, ...]
    unusable: tuple[tuple[str, str, str], ...]  # (id, mode, reason) of broken rows and of what could not be shown
    scored_by: str  # one line

    def remarks(self) -> list[str]:
        """Remarks needed to read the tables, a line each."""
        rows, reasons = self.rows, list(dict.fromkeys((name, reason) for name, _, reason in self.unusable))
        lines = [f"{rows.num_rows:,} rows, {len(rows.questions):,} answers to give; {self.scored_by}."]
        if reasons:
            lines.append(
                f"{len(reasons):,} rows or questions cannot be used, {self.run.output}/quarantine-*.jsonl list them; "
                f"the first: {': '.join(reasons[0])}"
            )
        return lines


def run_of_rows(
    rows: OwnRows, preparer: Preparer, output: Path, model: str, settings: Mapping[str, Any], config: EvaluationConfig
) -> EvaluationRun:
    """The run that asks own rows; answers to another file of rows are refused, as those of other weights are."""
    longest = max(
        len(preparer.settings.tokenizer.encode(rows.expected(q), add_special_tokens=False, split_special_tokens=True))
        for q in rows.questions
    )
    benchmark = Benchmark(
        name=rows.title,
        title=rows.title,
        reader=lambda folder: iter(rows.questions),
        max_new_tokens=max(MIN_NEW_TOKENS, 2 * longest),
    )
    return EvaluationRun(
        benchmark, Path(rows.title), output, model, preparer, {**settings, "data": rows.digest}, config
    )


def evaluate_rows(
    run: EvaluationRun,
    rows: OwnRows,
    answer: Answerer,
    measure: Measure | None,
    ranks: Ranks = ONE_PROCESS,
    advance: Progress = lambda done, total: None,
    metric: str | None = None,
) -> OwnOutcome:
    """Answers of the model to the rows, once every rank has asked its share of what no earlier run has asked.

    answer: takes the prompts of a batch. measure: takes its samples with their answers; None: no losses. metric: as
    `--metric` names it, to be said. The first rank writes results.jsonl, scores.json and report.md.
    """

    def prepare(question: Question, preparer: Preparer) -> Sample:
        return answered_sample(rows.conversations[question.question_id], preparer, rows.root)

    def speak(samples: Sequence[Sample]) -> list[Spoken]:
        texts = answer([prompt_of(sample) for sample in samples])
        if measure is None:
            return [Spoken(text) for text in texts]
        return [Spoken(text, *vars(loss).values()) for text, loss in zip(texts, measure(samples), strict=True)]

    rows = replace(rows, questions=rows.questions[: run.config.limit])
    broken = [(row.row_id, row.reason) for row in rows.broken]
    collect(run, rows.questions, prepare, speak, ranks, advance, broken)
    outcome = _outcome(run, rows, metric)
    if ranks.rank == 0:
        _write(outcome)
    return outcome


def _outcome(run: EvaluationRun, rows: OwnRows, metric: str | None) -> OwnOutcome:
    said = read_answers(run.output)
    ids = {question.question_id for question in rows.questions}
    answers = {
        mode: {name: answer for (asked, name), answer in said.items() if asked == mode and name in ids}
        for mode in MODES
    }
    answers = {mode: of_mode for mode, of_mode in answers.items() if of_mode}
    unusable = read_quarantine(run.output)
    if not answers:
        reason = unusable[0][2] if unusable else "nothing was asked"
        raise BenchmarkError(
            f"no row of {rows.title} could be shown, {run.output}/quarantine-*.jsonl say why: {reason}"
        )
    tables = [
        tabulate_own(run.benchmark, rows.questions, of_mode, mode, len(rows.broken))
        for mode, of_mode in answers.items()
    ]
    return OwnOutcome(run, rows, answers, tuple(tables), tuple(unusable), said_in_one_line(rows.questions, metric))


def _write(outcome: OwnOutcome) -> None:
    run = outcome.run
    results = [
        result
        for mode, answers in outcome.answers.items()
        for result in results_of(
            [Prediction(q, answers[q.question_id].answer) for q in outcome.rows.questions if q.question_id in answers],
            run.benchmark.name,
            run.model,
            mode,
        )
    ]
    write_results(results, run.output / "results.jsonl")
    tables = [
        {**asdict(table.scores), "losses": {name: asdict(loss) for name, loss in table.losses.items()}}
        for table in outcome.tables
    ]
    with write_atomically(run.output / "scores.json") as partial:
        partial.write_text(json.dumps(tables, indent=2) + "\n")
    lines = [f"# {run.benchmark.title}, {run.model}", "", *outcome.remarks(), ""]
    for table in outcome.tables:
        lines += [table.grid().markdown(), *table.remarks(), ""]
    with write_atomically(run.output / "report.md") as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
