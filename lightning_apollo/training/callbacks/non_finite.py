"""Policy for NaN/Inf losses and gradients: stop before the step, or skip and count it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_apollo.errors import UserError
from lightning_apollo.training.config import NonFiniteConfig

_NUM_SHOWN = 8  # sample ids in a message

logger = logging.getLogger(__name__)


class NonFiniteLoss(UserError, ArithmeticError):
    """A step whose loss or gradient is not finite, where the recipe does not leave it out."""


class _ChecksSteps(Protocol):
    """Interface of a Stage for this callback."""

    step_checks: list[Callable[[LightningModule, Tensor, Tensor], None]]

    def drop_step(self) -> None: ...


class NonFinite(Callback):
    """Look at each step of a Stage before its update, at its loss and gradient norm.

    Both are the same on all ranks, so that all decide alike and exchange nothing; only where a step is bad do they gather the ids
    of the samples behind it. A step that is left out changes neither weights nor optimizer; the schedule advances, and
    `skipped_steps`, which is logged then, counts it. The look costs one read of a number from the device in each step.
    """

    def __init__(self, config: NonFiniteConfig) -> None:
        self.config = config
        self.num_skipped = 0  # steps of the stage so far
        self._samples: tuple[str, ...] = ()  # of the micro-batch at work
        self._losses: list[tuple[tuple[str, ...], Tensor]] = []  # samples and own loss of each micro-batch of the step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cast(_ChecksSteps, pl_module).step_checks.append(self.check)

    def state_dict(self) -> dict[str, int]:
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.num_skipped = state_dict["num_skipped"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._samples = batch.sample_ids

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append((self._samples, loss.detach()))

    def check(self, stage: LightningModule, loss: Tensor, grad_norm: Tensor) -> None:
        """Take the gradients of a step away that is to be left out; raise NonFiniteLoss where it is to stop the run.

        loss, grad_norm: scalars of the whole step over all ranks.
        """
        losses, self._losses = self._losses, []
        if not math.isfinite(loss + grad_norm):  # host read
            self._report(stage.trainer, loss, grad_norm, losses)
            cast(_ChecksSteps, stage).drop_step()
        if self.config.action == "skip":
            stage.log("skipped_steps", float(self.num_skipped))

    def _report(
        self, trainer: Trainer, loss: Tensor, grad_norm: Tensor, losses: list[tuple[tuple[str, ...], Tensor]]
    ) -> None:
        """Count and say a bad step, or raise."""
        is_loss = not math.isfinite(loss)
        # A gradient is summed over all of them: which one brought it is not known
        suspects = [name for samples, own in losses if not (is_loss and math.isfinite(own)) for name in samples]
        what = f"the loss is {loss:g}" if is_loss else f"the loss is {loss:g} and the gradient's norm {grad_norm:g}"
        where = _shown(_of_all_ranks(trainer.world_size, suspects))
        said = f"step {trainer.global_step + 1}: {what} {'from' if is_loss else 'with'} {where}"
        if self.config.action == "stop":
            raise NonFiniteLoss(
                f"{said}; the weights are still those before it: look at these samples, lower the rates, or set "
                "trainer.non_finite.action=skip"
            )
        self.num_skipped += 1
        if self.num_skipped > self.config.max_skips:
            raise NonFiniteLoss(
                f"{said}; {self.config.max_skips} steps were left out before it, which is all that "
                "trainer.non_finite.max_skips allows"
            )
        if trainer.is_global_zero:
            logger.warning("%s; the step is left out, the %d. of %d", said, self.num_skipped, self.config.max_skips)


def _of_all_ranks(world_size: int, samples: list[str]) -> list[list[str]]:
    """The samples of each rank."""
    if world_size == 1:
        return [samples]
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, samples)
    return gathered


def _shown(of_ranks: list[list[str]]) -> str:
    """Ranks and their samples, the first few by name."""
    parts = []
    for rank, samples in enumerate(of_ranks):
        if samples:
            more = len(samples) - _NUM_SHOWN
            names = ", ".join(samples[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"{names} (rank {rank})")
    return "; ".join(parts)
