"""Train a stage with a NaN/Inf loss or gradient in one micro-batch of one rank, and record the outcome."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs import fit
from lightning_apollo.stages import base
from lightning_apollo.training.callbacks.non_finite import NonFiniteLoss


class Poison(Callback):
    """Make `what` ("loss" or "gradient") of a rank's micro-batches `batches` NaN, and note weights and rates step by step."""

    def __init__(self, what: str, rank: int, batches: tuple[int, ...]) -> None:
        self.what = what
        self.rank = rank
        self.batches = batches
        self.is_poisoned = False
        self.samples: tuple[str, ...] = ()  # of the poisoned micro-batches
        self.states: list[
            str
        ] = []  # hashes of weights and optimizer: before the first micro-batch, then after each step
        self.rates: list[float] = []
        self._loss_sum = base.token_loss_sum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(_digest(trainer, pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.is_poisoned = trainer.global_rank == self.rank and batch_idx in self.batches
        if self.is_poisoned:
            self.samples += batch.sample_ids

    def loss_sum(self, *arguments: Tensor) -> Tensor:
        """In the place of the stage's."""
        factor = float("nan") if self.is_poisoned and self.what == "loss" else 1.0
        return factor * self._loss_sum(*arguments)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.is_poisoned and self.what == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.states.append(_digest(trainer, pl_module))
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def train_poisoned(one: Recipe, stage: str, poison: Poison, patch: Callable[[object, str, Any], None]) -> str | None:
    """Train the stage; the words of the error that it stopped with."""
    of_stage = fit.stage_callbacks
    patch(fit, "stage_callbacks", lambda recipe, name: [*of_stage(recipe, name), poison])
    patch(base, "token_loss_sum", poison.loss_sum)
    try:
        fit.run_stage(one, stage)
    except NonFiniteLoss as error:
        return str(error)
    return None


def train_rank(path: str, stage: str, what: str, rank: str, batch: str, notes: str) -> None:
    """For `launch`: one rank, which writes what it saw to a file of its own."""
    poison = Poison(what, int(rank), (int(batch),))
    error = train_poisoned(load_recipe(path), stage, poison, setattr)
    note = {"error": error, "states": poison.states, "samples": poison.samples}
    Path(notes, f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(note))


def _digest(trainer: Trainer, pl_module: LightningModule) -> str:
    """Of weights and optimizer state, bit for bit; of this rank's slices where they are sliced."""
    digest = sha256()
    state = trainer.optimizers[0].state
    for name, parameter in pl_module.named_parameters():
        for key, value in (("", parameter.detach()), *sorted(state.get(parameter, {}).items())):
            own = value.to_local() if isinstance(value, DTensor) else value
            digest.update(f"{name} {key}".encode() + own.numpy().tobytes())
    return digest.hexdigest()
