"""Evaluate a trained stage or an export on a benchmark, with a progress bar and tables on the terminal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from lightning_apollo.evaluation.answer_files import Answer, read_answers
from lightning_apollo.evaluation.ask import answer_prompts
from lightning_apollo.evaluation.compare import Comparison, compare
from lightning_apollo.evaluation.ranks import Ranks, join_ranks
from lightning_apollo.evaluation.registry import Benchmark, find_benchmark
from lightning_apollo.evaluation.run import EvaluationConfig, EvaluationRun, evaluate
from lightning_apollo.evaluation.table import ScoreTable
from lightning_apollo.files import write_atomically
from lightning_apollo.inference.exported import is_exported
from lightning_apollo.inference.trained import find_stage_of, load_checkpoint, load_trained, say_nothing
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.checkpoint.files import weight_files
from lightning_apollo.progress import Say, progress_bar
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.stage_folder import stage_folder

COMPARED = "compared"  # folder of the second model's answers in an output folder that was named


def evaluate_checkpoint(
    checkpoint: str,
    overrides: Sequence[str],
    name: str,
    data: Path,
    output: Path | None,
    config: EvaluationConfig,
    console: Console,
    other: str | None = None,
) -> None:
    """Ask, write the answers and tables into `output`, or the model's folder, and print the tables.

    other: a second checkpoint that is asked the same and compared.
    """
    benchmark = find_benchmark(name)
    with join_ranks() as (ranks, device):
        runs = [
            _ask(place, benchmark, data, config, ranks, device, console)
            for place in places(checkpoint, overrides, other, output, benchmark.name, sayer(ranks, console))
        ]
    if ranks.rank == 0:
        for run, tables in runs:
            _print(run, tables, console)
        if other:
            print_comparisons(_compare(benchmark, [run for run, _ in runs]), runs[0][0].output, console)


@dataclass(frozen=True)
class EvaluationTarget:
    """A checkpoint that is asked, and where its answers go."""

    checkpoint: str
    overrides: tuple[str, ...]
    folder: Path  # of its weights
    model: str  # what it is called in files of results
    stage: tuple[Recipe, str] | None  # None for an export
    output: Path

    def load(self, device: torch.device) -> TrainedModel:
        if self.stage is None:
            return load_checkpoint(self.checkpoint, self.overrides, device)
        return load_trained(*self.stage, device)

    def digest(self) -> str:
        """SHA-256 of the files of its weights, one after the other."""
        digest = hashlib.sha256()
        for path in weight_files(self.folder):
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()


def sayer(ranks: Ranks, console: Console) -> Say:
    """Printer of lines on the first rank."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    return say if ranks.rank == 0 else say_nothing


def places(
    checkpoint: str, overrides: Sequence[str], other: str | None, output: Path | None, name: str, say: Say
) -> list[EvaluationTarget]:
    """The checkpoint that is asked, and the one that it is compared with; `name` is what is asked, and `say` gets a line
    where a recipe has changed since the training."""
    made = []
    for place, folder in ((checkpoint, output), (other, output and output / COMPARED)):
        if place is not None:
            weights, model, stage = _found(place, overrides, say)
            answers = folder or weights / "evaluation" / name
            made.append(EvaluationTarget(place, tuple(overrides), weights, model, stage, answers))
    return made


def model_names(runs: Sequence[EvaluationRun]) -> tuple[str, str]:
    """Names of two models beside each other."""
    first, second = (run.model for run in runs)
    return (first, second) if first != second else (first, f"{second} (compared)")


def print_comparisons(comparisons: Sequence[Comparison], output: Path, console: Console) -> None:
    """Print the comparisons of all modes and write them to comparison.md."""
    lines: list[str] = []
    for comparison in comparisons:
        for grid in comparison.grids():
            console.print(grid.rich())
            lines += [grid.markdown()]
        console.print(comparison.remark(), markup=False, highlight=False, soft_wrap=True)
        lines += [comparison.remark(), ""]
    with write_atomically(output / "comparison.md") as partial_file:
        partial_file.write_text("\n".join(lines), encoding="utf-8")


def _ask(
    place: EvaluationTarget,
    benchmark: Benchmark,
    data: Path,
    config: EvaluationConfig,
    ranks: Ranks,
    device: torch.device,
    console: Console,
) -> tuple[EvaluationRun, list[ScoreTable]]:
    """The run and its tables; the model is let go."""
    trained = place.load(device)
    run = EvaluationRun(
        benchmark, data, place.output, place.model, trained.preparer, {"weights": place.digest()}, config
    )
    answer = partial(answer_prompts, trained, max_new_tokens=benchmark.max_new_tokens)
    with progress_bar(f"ask {benchmark.title}", console, is_shown=ranks.rank == 0) as advance:
        return run, evaluate(run, answer, ranks, advance)


def _compare(benchmark: Benchmark, runs: Sequence[EvaluationRun]) -> list[Comparison]:
    questions = benchmark.questions(runs[0].folder, runs[0].config.limit)
    first, second = (read_answers(run.output) for run in runs)

    def of_mode(answers: dict[tuple[str, str], Answer], mode: str) -> dict[str, Answer]:
        return {name: answer for (asked, name), answer in answers.items() if asked == mode}

    return [
        compare(benchmark, questions, of_mode(first, mode), of_mode(second, mode), model_names(runs), mode)
        for mode in runs[0].config.modes
    ]


def _print(run: EvaluationRun, tables: Sequence[ScoreTable], console: Console) -> None:
    for table in tables:
        console.print(table.grid().rich())
        for line in table.remarks():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {run.output / run.config.file('report.md')}", markup=False, soft_wrap=True)


def _found(checkpoint: str, overrides: Sequence[str], say: Say) -> tuple[Path, str, tuple[Recipe, str] | None]:
    """Path of the weights, name of the model in files of results, and its recipe with the stage."""
    if is_exported(Path(checkpoint)):
        return Path(checkpoint), Path(checkpoint).resolve().name, None
    recipe, stage = find_stage_of(checkpoint, overrides, say=say)
    is_last = stage == list(recipe.stages)[-1]
    return stage_folder(recipe, stage), recipe.name if is_last else f"{recipe.name}/{stage}", (recipe, stage)
