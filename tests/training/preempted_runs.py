"""Train a stage that gets signals at chosen moments, for tests of preemption.

python -m tests.training.preempted_runs RECIPE.yaml STAGE begin|resume [RANK BATCH SIGNAL process|group]...
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs import fit


class Strike(NamedTuple):
    """A signal that a rank sends to itself, or to its whole process group, at the start of its micro-batch `batch`."""

    rank: int
    batch: int
    name: str
    to_group: bool = False


class Strikes(Callback):
    def __init__(self, strikes: Sequence[Strike]) -> None:
        self.strikes = strikes

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for strike in self.strikes:
            if (strike.rank, strike.batch) == (trainer.global_rank, batch_idx):
                number = signal.Signals[strike.name]
                os.killpg(0, number) if strike.to_group else os.kill(os.getpid(), number)


def with_strikes(strikes: Sequence[Strike]) -> Callable[[Recipe, str], list[Callback]]:
    """In the place of `fit.stage_callbacks`: signals, and the stage's own."""
    of_stage = fit.stage_callbacks

    def callbacks(recipe: Recipe, name: str) -> list[Callback]:
        return [Strikes(strikes), *of_stage(recipe, name)]

    return callbacks


def train(path: str, stage: str, how: str, *words: str) -> None:
    """Train the stage with the signals that `words` describe, four for each."""
    strikes = [
        Strike(int(rank), int(batch), name, scope == "group")
        for rank, batch, name, scope in zip(*(words[place::4] for place in range(4)), strict=True)
    ]
    fit.stage_callbacks = with_strikes(strikes)
    fit.run_stage(load_recipe(path), stage, resume=how == "resume")


if __name__ == "__main__":
    train(*sys.argv[1:])
