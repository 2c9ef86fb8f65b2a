"""A benchmark asked of a trained stage or an export of it, with a progress bar and tables on the terminal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_apollo.evaluation.ask import answer_prompts
from lightning_apollo.evaluation.ranks import join_ranks
from lightning_apollo.evaluation.registry import find_benchmark
from lightning_apollo.evaluation.run import EvaluationConfig, Run, evaluate
from lightning_apollo.inference.trained import find_stage_of, load_checkpoint, say_nothing
from lightning_apollo.models.weight_files import weight_files
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.weights.exported import is_exported


def evaluate_checkpoint(
    checkpoint: str,
    overrides: Sequence[str],
    name: str,
    data: Path,
    output: Path | None,
    config: EvaluationConfig,
    console: Console,
) -> None:
    """Asks, writes the answers and tables into `output`, or the model's folder, and prints the tables."""
    benchmark = find_benchmark(name)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with join_ranks() as (ranks, device):
        trained = load_checkpoint(checkpoint, overrides, device, say if ranks.rank == 0 else say_nothing)
        folder, model = _folder_and_name(checkpoint, overrides)
        run = Run(
            benchmark=benchmark,
            folder=data,
            output=output or folder / "evaluation" / benchmark.name,
            model=model,
            preparer=trained.preparer,
            settings={"weights": _digest(weight_files(folder))},
            config=config,
        )
        answer = partial(answer_prompts, trained, max_new_tokens=benchmark.max_new_tokens)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=ranks.rank > 0) as progress:
            task = progress.add_task(f"ask {benchmark.title}", total=None)
            tables = evaluate(
                run, answer, ranks, lambda done, total: progress.update(task, completed=done, total=total)
            )
    if ranks.rank == 0:
        for table in tables:
            console.print(table.grid().rich())
            for line in table.remarks():
                say(line)
        console.print(f"report: {run.output / 'report.md'}", markup=False, soft_wrap=True)


def _folder_and_name(checkpoint: str, overrides: Sequence[str]) -> tuple[Path, str]:
    """Where the weights lie, and what the model is called in files of results."""
    if is_exported(Path(checkpoint)):
        return Path(checkpoint), Path(checkpoint).resolve().name
    recipe, stage = find_stage_of(checkpoint, overrides, say=say_nothing)
    is_last = stage == list(recipe.stages)[-1]
    return stage_folder(recipe, stage), recipe.name if is_last else f"{recipe.name}/{stage}"


def _digest(weights: Sequence[Path]) -> str:
    """SHA-256 of the files, one after the other."""
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
