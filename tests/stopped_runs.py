"""Train a stage that notes its batches and dies after a chosen step, for tests of resuming.

python -m tests.stopped_runs RECIPE.yaml STAGE NOTES KILL_AFTER resume|begin      KILL_AFTER 0: it lives to its end
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs import fit


class Stopped(Exception):
    """The end of a run that a test stops in its own process."""


def raise_stopped() -> None:
    raise Stopped


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Notes(Callback):
    """One line for each micro-batch: its optimizer step, from 0, and its samples. `stop` is called after a step's end."""

    def __init__(self, folder: Path, stop_after: int, stop: Callable[[], None]) -> None:
        self.folder = folder
        self.stop_after = stop_after
        self.stop = stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps({"step": trainer.global_step, "samples": batch.sample_ids}) + "\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < self.stop_after == trainer.global_step:
            self.stop()


def read_notes(folder: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Step and samples of every micro-batch, rank after rank."""
    rows = [json.loads(line) for path in sorted(folder.glob("rank*.jsonl")) for line in path.read_text().splitlines()]
    return [(row["step"], tuple(row["samples"])) for row in rows]


def with_notes(
    notes: Path, stop_after: int = 0, stop: Callable[[], None] = raise_stopped
) -> Callable[[Recipe, str], list[Callback]]:
    """In the place of `fit.stage_callbacks`: those of the stage and, after them, notes."""
    of_stage = fit.stage_callbacks

    def callbacks(recipe: Recipe, name: str) -> list[Callback]:
        return [*of_stage(recipe, name), Notes(notes, stop_after, stop)]

    return callbacks


def main() -> None:
    path, stage, notes, stop_after, how = sys.argv[1:]
    fit.stage_callbacks = with_notes(Path(notes), int(stop_after), kill_this_process)
    fit.run_stage(load_recipe(path), stage, resume=how == "resume")


if __name__ == "__main__":
    main()
