"""Asking a model a benchmark: on one process or on many ranks, going on where an earlier run stopped.

answers of earlier runs ─> what is missing ─> shared out to ranks ─> prepare ahead ─> generate ─> append
                                                                                 all ranks done ─> tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.evaluation.answer_files import (
    Answer,
    AnswerFile,
    Quarantine,
    check_settings,
    clear_quarantine,
    read_answers,
)
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.ranks import ONE_PROCESS, Ranks
from lightning_apollo.evaluation.registry import Benchmark
from lightning_apollo.evaluation.results import MODES, QuestionResult, write_results
from lightning_apollo.evaluation.table import ScoreTable, tabulate_scores
from lightning_apollo.structures import MediaError, Sample

RIGHT = 0.5  # the score from which an answer counts as right in a file of results, where there are scores in between

Answerer = Callable[[Sequence[Sample]], list[str]]  # the answers to some prompts


@dataclass(frozen=True)
class EvaluationConfig:
    """How a benchmark is asked."""

    modes: tuple[str, ...] = ("full",)  # what the model sees, of results.MODES
    limit: int | None = None  # the first so many questions; None: all of them
    batch_size: int = 8  # prompts answered together

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len(set(self.modes)) < len(self.modes):
            raise BenchmarkError(f"modes are some of {', '.join(MODES)}, each once, not {', '.join(self.modes)!r}")
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise BenchmarkError("batch size and limit are at least 1")


@dataclass(frozen=True)
class Run:
    """A model, a benchmark, and where the answers go."""

    benchmark: Benchmark
    folder: Path  # of the benchmark's published files
    output: Path
    model: str  # as it is to be called in files of results
    preparer: Preparer  # of the model's training
    settings: dict[str, Any]  # what else answers depend on: the weights
    config: EvaluationConfig = field(default_factory=EvaluationConfig)

    def all_settings(self) -> dict[str, Any]:
        """What answers depend on, for another run to compare. Modes, limit and batches are not part of it."""
        prepared = self.preparer
        return {
            "benchmark": self.benchmark.name,
            "model": self.model,
            "max_new_tokens": self.benchmark.max_new_tokens,
            "sampling": asdict(prepared.sampling),
            "budget": asdict(prepared.budget),
            "seed": prepared.seed,
            "merge_sizes": [prepared.image_merge_size, prepared.video_merge_size],
            "system_prompt": prepared.system_prompt,
            "clip_text": asdict(prepared.clip_text),
            **self.settings,
        }


def evaluate(
    run: Run,
    answer: Answerer,
    ranks: Ranks = ONE_PROCESS,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoreTable]:
    """The table of each mode that has answers, once every rank has asked its share of what no earlier run has asked.

    `advance` is told how many of this rank's questions are done, and of how many. The files of results are written by the
    first rank. Raises BenchmarkError for files, settings and answers that do not fit.
    """
    questions = ranks.first_to_last(lambda: run.benchmark.questions(run.folder, run.config.limit))
    ranks.first_to_last(lambda: check_settings(run.output, run.all_settings()))
    missing = _missing(run, questions)
    ranks.wait()  # all have read the answers before any of them appends to them
    share = missing[ranks.rank :: ranks.world_size]
    with AnswerFile(run.output, ranks.rank) as file:
        if ranks.rank == 0:
            clear_quarantine(run.output)
        ranks.wait()
        with Quarantine(run.output, ranks.rank) as quarantine:
            _ask(run, share, answer, file, quarantine, advance)
    ranks.wait()
    return _finish(run, questions, is_writer=ranks.rank == 0)


@dataclass(frozen=True)
class _Item:
    """A question in a mode, with its prompt or the reason why there is none."""

    question: Question
    mode: str
    sample: Sample | None = None
    error: MediaError | ValueError | None = None


def _ask(
    run: Run,
    share: Sequence[_Item],
    answer: Answerer,
    file: AnswerFile,
    quarantine: Quarantine,
    advance: Callable[[int, int], None],
) -> None:
    """Asks this rank's share; after each batch its answers are on the disk."""
    done = 0
    advance(done, len(share))
    for batch in _prepared_ahead(run, share):
        quarantine.append((item.question.question_id, item.mode, str(item.error)) for item in batch if item.error)
        file.append(_answers([item for item in batch if item.sample is not None], answer))
        done += len(batch)
        advance(done, len(share))


def _answers(items: Sequence[_Item], answer: Answerer) -> Iterator[Answer]:
    said = answer([item.sample for item in items if item.sample is not None]) if items else []
    for item, text in zip(items, said, strict=True):
        yield Answer(item.question.question_id, item.mode, item.question.fingerprint, text)


def _missing(run: Run, questions: Sequence[Question]) -> list[_Item]:
    """What has no answer yet; BenchmarkError where an answer was given to other words than those of now."""
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


def _prepared_ahead(run: Run, share: Sequence[_Item]) -> Iterator[list[_Item]]:
    """The items in batches with their prompts, the next batch being prepared while one is answered."""
    preparers = {mode: replace(run.preparer, visuals=mode) for mode in run.config.modes}
    size = run.config.batch_size
    batches = [share[start : start + size] for start in range(0, len(share), size)]

    def prepare(batch: Sequence[_Item]) -> list[_Item]:
        return [_prepared(item, preparers[item.mode], run.folder) for item in batch]

    with ThreadPoolExecutor(max_workers=1) as beside:
        following = beside.submit(prepare, batches[0]) if batches else None
        for number in range(len(batches)):
            assert following is not None
            batch = following.result()
            following = beside.submit(prepare, batches[number + 1]) if number + 1 < len(batches) else None
            yield batch


def _prepared(item: _Item, preparer: Preparer, root: Path) -> _Item:
    try:
        return replace(item, sample=build_prompt(item.question, preparer, root))
    except (MediaError, ValueError) as error:
        return replace(item, error=error)


def _finish(run: Run, questions: Sequence[Question], is_writer: bool) -> list[ScoreTable]:
    """The tables of all answers, those of earlier runs included; the first rank writes them."""
    answers = read_answers(run.output)
    tables: list[ScoreTable] = []
    results: list[QuestionResult] = []
    for mode in MODES:
        said = {
            q.question_id: answers[mode, q.question_id].answer for q in questions if (mode, q.question_id) in answers
        }
        if said:
            tables.append(tabulate_scores(run.benchmark, questions, said, mode))
            results += [_result(run, q, said[q.question_id], mode) for q in questions if q.question_id in said]
    if not tables:
        raise BenchmarkError(
            f"no question of {run.benchmark.title} could be shown: {run.output}/quarantine-*.jsonl say why"
        )
    if is_writer:
        write_results(results, run.output / "results.jsonl")
        (run.output / "scores.json").write_text(json.dumps([asdict(table) for table in tables], indent=2) + "\n")
        (run.output / "report.md").write_text(report(run, tables), encoding="utf-8")
    return tables


def _result(run: Run, question: Question, answer: str, mode: str) -> QuestionResult:
    return QuestionResult(
        benchmark=run.benchmark.name,
        question_id=question.question_id,
        category=question.category,
        model=run.model,
        mode=mode,
        answer=answer,
        expected=question.answers[0],
        is_right=score_of(answer, question) >= RIGHT,
    )


def report(run: Run, tables: Sequence[ScoreTable]) -> str:
    """The tables as Markdown."""
    lines = [f"# {run.benchmark.title}, {run.model}", ""]
    for table in tables:
        lines += [table.grid().markdown(), *table.remarks(), ""]
    return "\n".join(lines)
