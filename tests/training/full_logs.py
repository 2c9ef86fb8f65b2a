"""Train a stage with a full disk for some steps and a logger that fails at every call.

python -m tests.training.full_logs FOLDER      FOLDER: of a small tmpfs
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs import fit
from lightning_apollo.training.steady_logger import SteadyLogger
from tests.small_recipe import recipe

FULL_STEPS = range(2, 16)
NUM_STEPS = 20


class Filler(Callback):
    """Fill the disk while a step of FULL_STEPS trains, and wait after the last for loggers to try again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "filler"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in FULL_STEPS:
            self.fill()
        elif self.path.exists():
            self.path.unlink()
            time.sleep(4.0)

    def fill(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            for size in (65536, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))


class Failing(Logger):
    """A logger whose server is away."""

    name, version = "failing", ""  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        raise ConnectionError("no route to host")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")


def main(folder: Path) -> None:
    one = recipe(folder, f"stages.adapt.max_steps={NUM_STEPS}")
    of_stage, of_trainer = fit.stage_callbacks, fit._build_trainer

    def with_filler(recipe: Recipe, name: str) -> list[Callback]:
        return [*of_stage(recipe, name), Filler(folder)]

    def with_failing(*arguments: Any) -> Trainer:
        trainer = of_trainer(*arguments)
        trainer.loggers = [*trainer.loggers, SteadyLogger("failing", lambda first: Failing())]
        return trainer

    fit.stage_callbacks, fit._build_trainer = with_filler, with_failing
    fit.run_stage(one, "adapt")
    assert os.path.isfile(folder / "adapt" / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
