"""Random states of all ranks: other ones for each, and the same after a resume as without a stop."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

_KEY = "exact_resume"


class ExactResume(Callback):
    """Keeps the random states of every rank, and lets a run go on with another number of ranks.

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


def random_states() -> dict[str, Tensor]:
    """The states of Python's, NumPy's, PyTorch's and the current GPU's generators, as tensors."""
    _, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    if gauss is not None or numpy_state["has_gauss"]:
        raise RuntimeError("a generator holds half of a pair of normal numbers: draw them with torch in training code")
    states = {
        "python": torch.tensor(words),
        "numpy": torch.tensor([*numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Puts `random_states` back."""
    random.setstate((3, tuple(states["python"].tolist()), None))
    *keys, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, 0, 0.0))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def convert_batch_progress(progress: dict[str, Any], old_accumulated: int, new_accumulated: int) -> None:
    """Changes Lightning's counts of one rank's micro-batches where a step takes another number of them on each rank.

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
