"""Evaluate a model on a benchmark, on one process or on many ranks. A stopped run resumes.

answers of earlier runs ─> what is missing ─> shared out to ranks ─> prepare ahead ─> generate ─> append
                                                                                 all ranks done ─> tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.evaluation.answer_files import (
    Answer,
    AnswerFile,
    QuarantineFile,
    check_settings,
    clear_quarantine,
    read_answers,
)
from lightning_apollo.evaluation.ask import Reply, ask
from lightning_apollo.evaluation.judge import Judge
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.paper_rules import MaybeScore, paper_score
from lightning_apollo.evaluation.predictions import Prediction
from lightning_apollo.evaluation.predictions import results as results_of
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.ranks import ONE_PROCESS, Ranks
from lightning_apollo.evaluation.registry import Benchmark
from lightning_apollo.evaluation.results import MODES, QuestionResult, write_results
from lightning_apollo.evaluation.table import ScoreTable, tabulate_scores
from lightning_apollo.progress import Progress
from lightning_apollo.structures import Sample

Answerer = Callable[[Sequence[Sample]], list[str]]  # the answers to some prompts


@dataclass(frozen=True)
class Spoken:
    """An answer, and where it was asked for the loss of the expected one."""

    text: str
    loss_sum: float | None = None  # nats
    num_tokens: int | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Options of an evaluation run."""

    modes: tuple[str, ...] = ("full",)  # what the model sees, of results.MODES
    limit: int | None = None  # the first so many questions; None: all of them
    batch_size: int = 8  # prompts answered together
    rule: str = "organisers"  # by which answers are scored, one of judge.RULES
    judge: Judge | None = None  # of the paper's rule, where that asks one

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len(set(self.modes)) < len(self.modes):
            raise BenchmarkError(f"modes are some of {', '.join(MODES)}, each once, not {', '.join(self.modes)!r}")
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise BenchmarkError("batch size and limit are at least 1")

    def file(self, name: str) -> str:
        """The name of a file of results: scores.json, or scores-paper.json by the paper's rule."""
        stem, ending = name.rsplit(".", 1)
        return name if self.rule == "organisers" else f"{stem}-{self.rule}.{ending}"


@dataclass(frozen=True)
class EvaluationRun:
    """A model, a benchmark, and where the answers go."""

    benchmark: Benchmark
    folder: Path  # of the benchmark's published files
    output: Path
    model: str  # as it is to be called in files of results
    preparer: Preparer  # of the model's training
    settings: dict[str, Any]  # what else answers depend on: the weights
    config: EvaluationConfig = field(default_factory=EvaluationConfig)

    def all_settings(self) -> dict[str, Any]:
        """Settings that answers depend on, for another run to compare. Modes, limit and batches are not part of it."""
        prepared = self.preparer.settings
        return {
            "benchmark": self.benchmark.name,
            "model": self.model,
            "max_new_tokens": self.benchmark.max_new_tokens,
            "sampling": asdict(prepared.sampling),
            "budget": asdict(prepared.budget),
            "seed": self.preparer.seed,
            "merge_sizes": [prepared.image_merge_size, prepared.video_merge_size],
            "system_prompt": prepared.system_prompt,
            "clip_text": asdict(prepared.clip_text),
            **self.settings,
        }


def evaluate(
    run: EvaluationRun,
    answer: Answerer,
    ranks: Ranks = ONE_PROCESS,
    advance: Progress = lambda done, total: None,
) -> list[ScoreTable]:
    """The table of each mode that has answers, once every rank has asked its share of what no earlier run has asked.

    The files of results are written by the first rank. Raises BenchmarkError for files, settings and answers that do not fit.
    """
    questions = ranks.first_to_last(lambda: run.benchmark.questions(run.folder, run.config.limit))

    def prepare(question: Question, preparer: Preparer) -> Sample:
        return build_prompt(question, preparer, run.folder)

    def speak(prompts: Sequence[Sample]) -> list[Spoken]:
        return [Spoken(text) for text in answer(prompts)]

    collect(run, questions, prepare, speak, ranks, advance)
    score = score_of
    if run.config.rule == "paper":
        score = ranks.first_to_last(lambda: _paper_score(run, questions, advance))
    return _finish(run, questions, is_writer=ranks.rank == 0, score=score)


def _paper_score(run: EvaluationRun, questions: Sequence[Question], advance: Progress) -> MaybeScore:
    """The score by the paper's rule; the first rank asks the judge, the others find its replies."""
    answers = read_answers(run.output)
    asked = {question.question_id: question for question in questions}
    said = [(answer.answer, asked[name]) for (_, name), answer in answers.items() if name in asked]
    return paper_score(run.benchmark.name, said, run.config.judge, run.output, advance)


def collect(
    run: EvaluationRun,
    questions: Sequence[Question],
    prepare: Callable[[Question, Preparer], Sample],
    speak: Callable[[Sequence[Sample]], Sequence[Spoken]],
    ranks: Ranks,
    advance: Progress,
    broken: Sequence[tuple[str, str]] = (),
) -> None:
    """Have every rank ask its share of the questions that have no answer yet; all answers are on the disk when it returns.

    `broken` are (id, reason) of what is no question: the quarantine lists them beside what could not be shown.
    """
    ranks.first_to_last(lambda: check_settings(run.output, run.all_settings()))
    missing = _missing(run, questions)
    ranks.wait()  # all have read the answers before any of them appends to them
    share = missing[ranks.rank :: ranks.world_size]
    with AnswerFile(run.output, ranks.rank) as file:
        if ranks.rank == 0:
            clear_quarantine(run.output)
        ranks.wait()
        with QuarantineFile(run.output, ranks.rank) as quarantine:
            if ranks.rank == 0:
                quarantine.append((name, mode, reason) for mode in run.config.modes for name, reason in broken)
            _ask(run, share, prepare, speak, file, quarantine, advance)
    ranks.wait()


class _Item(NamedTuple):
    """A question in a mode."""

    question: Question
    mode: str


def _ask(
    run: EvaluationRun,
    share: Sequence[_Item],
    prepare: Callable[[Question, Preparer], Sample],
    speak: Callable[[Sequence[Sample]], Sequence[Spoken]],
    file: AnswerFile,
    quarantine: QuarantineFile,
    advance: Progress,
) -> None:
    """Ask this rank's share; after each batch its answers are on the disk."""
    preparers = {mode: replace(run.preparer, visuals=mode) for mode in run.config.modes}

    done = 0
    advance(done, len(share))
    shown = ask(share, lambda item: prepare(item.question, preparers[item.mode]), speak, run.config.batch_size)
    for replies in shown:
        quarantine.append((*_name(reply), str(reply.error)) for reply in replies if reply.error)
        file.append(_answer(reply) for reply in replies if not reply.error)
        done += len(replies)
        advance(done, len(share))


def _name(reply: Reply[_Item, Spoken]) -> tuple[str, str]:
    return reply.item.question.question_id, reply.item.mode


def _answer(reply: Reply[_Item, Spoken]) -> Answer:
    spoken = reply.result()
    fingerprint = reply.item.question.fingerprint
    return Answer(*_name(reply), fingerprint, spoken.text, spoken.loss_sum, spoken.num_tokens)


def _missing(run: EvaluationRun, questions: Sequence[Question]) -> list[_Item]:
    """Questions without an answer yet; BenchmarkError where an answer was given to other words than those of now."""
    answers = read_answers(run.output)
    asked = {question.question_id: question.fingerprint for question in questions}
    for (_, question_id), answer in answers.items():
        if asked.get(question_id, answer.asked) != answer.asked:
            raise BenchmarkError(
                f"{run.output} has an answer to other words than those of {question_id} in {run.folder}: "
                "name another --output, or remove it"
            )
    return [
        _Item(question, mode)
        for mode in run.config.modes
        for question in questions
        if (mode, question.question_id) not in answers
    ]


def _finish(run: EvaluationRun, questions: Sequence[Question], is_writer: bool, score: MaybeScore) -> list[ScoreTable]:
    """The tables of all answers, those of earlier runs included; the first rank writes them, each rule into its own files."""
    answers = read_answers(run.output)
    tables: list[ScoreTable] = []
    results: list[QuestionResult] = []
    for mode in MODES:
        predictions = [
            Prediction(question, answers[mode, question.question_id].answer)
            for question in questions
            if (mode, question.question_id) in answers
        ]
        if predictions:
            said = {prediction.question.question_id: prediction.answer for prediction in predictions}
            tables.append(tabulate_scores(run.benchmark, questions, said, mode, score))
            results += results_of(predictions, run.benchmark.name, run.model, mode, score)
    if not tables:
        raise BenchmarkError(
            f"no question of {run.benchmark.title} could be shown: {run.output}/quarantine-*.jsonl say why"
        )
    if is_writer:
        file = run.config.file
        write_results(results, run.output / file("results.jsonl"))
        (run.output / file("scores.json")).write_text(json.dumps([asdict(table) for table in tables], indent=2) + "\n")
        (run.output / file("report.md")).write_text(markdown_report(run, tables), encoding="utf-8")
    return tables


def markdown_report(run: EvaluationRun, tables: Sequence[ScoreTable]) -> str:
    """The tables as Markdown."""
    rule = ", scored by the paper's rule" if run.config.rule == "paper" else ""
    lines = [f"# {run.benchmark.title}, {run.model}{rule}", ""]
    for table in tables:
        lines += [table.grid().markdown(), *table.remarks(), ""]
    return "\n".join(lines)
