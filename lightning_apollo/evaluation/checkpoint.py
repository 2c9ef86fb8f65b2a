"""A benchmark asked of a trained stage, with a progress bar and tables on the terminal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_apollo.evaluation.benchmarks import answer_prompts
from lightning_apollo.evaluation.ranks import join_ranks
from lightning_apollo.evaluation.registry import find_benchmark
from lightning_apollo.evaluation.run import EvaluationConfig, Run, evaluate
from lightning_apollo.inference.trained import find_stage_of, load_trained
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS


def evaluate_checkpoint(
    checkpoint: str,
    overrides: Sequence[str],
    name: str,
    data: Path,
    output: Path | None,
    config: EvaluationConfig,
    console: Console,
) -> None:
    """Asks, writes the answers and tables into `output`, or the stage's folder, and prints the tables."""
    benchmark = find_benchmark(name)
    recipe, stage = find_stage_of(checkpoint, overrides)
    with join_ranks() as (ranks, device):
        trained = load_trained(recipe, stage, device)
        run = Run(
            benchmark=benchmark,
            folder=data,
            output=output or stage_folder(recipe, stage) / "evaluation" / benchmark.name,
            model=recipe.name if stage == list(recipe.stages)[-1] else f"{recipe.name}/{stage}",
            preparer=trained.preparer,
            settings={"weights": _digest(stage_folder(recipe, stage) / WEIGHTS)},
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
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print(f"report: {run.output / 'report.md'}", markup=False, soft_wrap=True)


def _digest(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
