"""Random states of all ranks in checkpoints, restored on resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_apollo.training.random_states import random_states, set_random_states

_KEY = "exact_resume"


class ExactResume(Callback):
    """Keep the random states of every rank, and let a run resume with another number of ranks.

    All ranks make the same initial weights from one seed. From the first micro-batch on each draws from states of its own, so
    that their dropout masks differ; the first rank's are those of a run of one rank.

    On as many ranks as before, each gets its own states back right before its next micro-batch, so that dropout draws what it
    would have drawn. On another number, states are made anew from the first rank's. Lightning's counters of micro-batches, which
    are a rank's own, are converted where a step takes more or fewer of them; the position in the data is that of a sample.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Tensor] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = {
            "random_states": _of_all_ranks(trainer.world_size, random_states()),
            "accumulated": trainer.accumulate_grad_batches,  # micro-batches of a step on one rank
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[dict[str, Tensor]] = checkpoint[_KEY]["random_states"]
        has_as_many = len(states) == trainer.world_size
        self._pending = states[trainer.global_rank] if has_as_many else _new_states(states[0], trainer.global_rank)
        _ = trainer.estimated_stepping_batches  # asks for the loader, which takes smaller steps where an epoch is small
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        convert_batch_progress(progress, checkpoint[_KEY]["accumulated"], trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._pending is None and trainer.global_rank > 0:
            self._pending = _new_states(random_states(), trainer.global_rank)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._pending is not None:  # only now: what Lightning and the loader do before may draw numbers
            set_random_states(self._pending)
            self._pending = None


def convert_batch_progress(progress: dict[str, Any], old_accumulated: int, new_accumulated: int) -> None:
    """Change Lightning's counts of one rank's micro-batches where a step takes another number of them on each rank.

    They were saved at the end of a micro-batch, which is thus processed and not yet completed.
    """
    for counts in (progress["total"], progress["current"]):
        num_steps, rest = divmod(counts["processed"], old_accumulated)
        if rest or counts["completed"] != counts["processed"] - 1:
            raise ValueError(f"{counts} is not the edge of a step of {old_accumulated} micro-batches")
        num_batches = num_steps * new_accumulated
        counts.update(ready=num_batches, started=num_batches, processed=num_batches, completed=num_batches - 1)


def _of_all_ranks(world_size: int, states: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    if world_size == 1:
        return [states]
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, states)
    return gathered


def _new_states(first: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """States of a rank that are drawn from the first rank's, other ones for every rank."""
    before = random_states()
    set_random_states({**before, **{name: state for name, state in first.items() if name != "cuda"}})
    seed = int(torch.randint(2**32, (rank + 1,))[-1])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    states = random_states()
    set_random_states(before)
    return states
