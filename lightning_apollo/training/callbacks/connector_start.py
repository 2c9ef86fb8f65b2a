"""Calibration of a connector before the first step: visual tokens as large as the LLM's embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_apollo.models.calibration import (
    channel_sums,
    deviation,
    scale_outputs,
    standardize_inputs,
    table_sums,
)
from lightning_apollo.models.config import CALIBRATED, ModelConfig
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.callbacks.blank_media_check import forget_logged
from lightning_apollo.training.random_states import undisturbed

LARGEST_SCALE = 8.0  # and its inverse: beyond, visual tokens are too loud or too quiet for a trained language model

Peek = Callable[[int], Sequence[PackedBatch]]


class ConnectorStart(Callback):
    """Calibrate a random connector where `connector.init` asks for it, and log `start/visual_scale` of every stage.

    Calibrating: before the first optimizer step that shows anything, all its micro-batches run forward twice, without
    gradients. Of the first pass each channel of the features is standardised, and of the second the visual tokens get the
    deviation of the embeddings. The sums are added in the order of the plan, whatever ranks hold them, so that one rank and
    four come to the same weights. Random states and the data's order stay as they are.

    `start/visual_scale`: the deviation of the visual tokens over that of the embeddings, of the same step as it trains.

    Give it to the Trainer before StepTime, which then books these forwards as `other`.
    """

    def __init__(self, config: ModelConfig, is_random: bool, peek: Peek, say: Callable[[str], None]) -> None:
        """is_random: whether the stage starts from a connector that no file holds; peek: gives a rank's next micro-batches,
        which training still gets; say: where a line goes, on rank 0."""
        self.config, self.is_random = config, is_random
        self.is_due = is_random and config.connector.init == CALIBRATED  # and not done yet
        self.is_logged = False
        self._peek, self._say = peek, say
        self._embeddings = 0.0  # their deviation
        self._is_forward = False
        self._shown: Tensor | None = None  # (3, E) sums of the step's visual tokens so far, of this rank
        self._hook: RemovableHandle | None = None  # while the scale is still to be measured
        self._step = 0  # optimizer steps so far
        self._is_in_row = False  # logged with the step before

    def state_dict(self) -> dict[str, bool]:
        return {"is_due": self.is_due, "is_logged": self.is_logged}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.is_due, self.is_logged = False, True  # as in a checkpoint without the state below

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        self.is_due, self.is_logged = state_dict["is_due"], state_dict["is_logged"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_logged:
            return
        model = _model(pl_module)
        table = model.llm.get_input_embeddings().get_parameter("weight")
        self._embeddings = deviation(table_sums(table))
        self._hook = model.connector.register_forward_hook(self._count)
        self._step = trainer.global_step
        self._calibrate(trainer, model)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        self._is_forward = True
        if self._is_in_row and trainer.global_step != self._step:
            forget_logged(trainer)
            self._is_in_row = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._is_forward = False  # checkpointed modules run again in the backward pass

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._hook is None or self._shown is None:
            return
        sums = trainer.strategy.reduce(self._shown, reduce_op="sum")
        self._shown = None
        scale = deviation(sums) / self._embeddings
        if not (math.isfinite(scale) and scale):  # a step of text alone, or one that NonFinite has words for
            return
        pl_module.log("start/visual_scale", scale)
        self.is_logged = self._is_in_row = True
        self._step = trainer.global_step
        self._forget_hook()
        if trainer.is_global_zero and (line := self._described(scale)):
            self._say(line)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        if self._hook is not None and trainer.global_step != self._step:  # a step of text alone is behind us
            self._step = trainer.global_step
            self._calibrate(trainer, _model(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget_hook()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._forget_hook()

    def _forget_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _count(self, module: object, inputs: object, output: Tensor) -> None:
        if self._is_forward:
            sums = channel_sums(output)
            self._shown = sums if self._shown is None else self._shown + sums

    def _calibrate(self, trainer: Trainer, model: VideoLMM) -> None:
        """Do nothing where it is not due, and wait where the coming step shows nothing, or the same everywhere."""
        if not self.is_due:
            return
        batches = self._peek(trainer.accumulate_grad_batches)
        if not batches:  # the stage is at its end
            return
        features, _ = _step_sums(trainer, model, batches)
        if not (deviation(features) > 0.0 and features.isfinite().all()):
            return
        standardize_inputs(model.connector, features)
        _, outputs = _step_sums(trainer, model, batches)
        scale_outputs(model.connector, self._embeddings / deviation(outputs))
        _restart_masters(trainer, model)
        self.is_due = False

    def _described(self, scale: float) -> str | None:
        """Warning about a connector that starts too loud or too quiet."""
        if not self.is_random or 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
            return None
        said = f"visual tokens start {scale:.3g} times as large as the language model's embeddings"
        if self.config.llm.weights is None:
            return f"{said}, which are random as well; a trained one hears them with model.connector.init={CALIBRATED}"
        return f"warning: {said}, which it hardly learns to look at: set model.connector.init={CALIBRATED}"


def _model(pl_module: LightningModule) -> VideoLMM:
    model = pl_module.get_submodule("model")
    assert isinstance(model, VideoLMM)  # what every stage trains
    return model


@torch.no_grad()
def _restart_masters(trainer: Trainer, model: VideoLMM) -> None:
    """Let the copies that an optimizer steps in the place of narrower parameters, and rounds into them, begin as these."""
    for optimizer in trainer.optimizers:
        masters = getattr(optimizer, "masters", {})
        for parameter in model.connector.parameters():
            if parameter in masters:
                masters[parameter].copy_(parameter)


def _step_sums(trainer: Trainer, model: VideoLMM, batches: Sequence[PackedBatch]) -> tuple[Tensor, Tensor]:
    """Sums (3, D) of the connector's inputs and (3, E) of its outputs over the micro-batches of all ranks."""
    taken: list[tuple[Tensor, Tensor]] = []

    def take(module: object, inputs: tuple[Tensor], output: Tensor) -> None:
        taken.append((channel_sums(inputs[0]), channel_sums(output)))

    rows: list[tuple[Tensor, ...]] = []  # of each micro-batch, whose clips may come in several chunks
    hook = model.connector.register_forward_hook(take)
    try:
        with trainer.precision_plugin.train_step_context(), undisturbed(model):
            for batch in batches:
                model(trainer.strategy.batch_to_device(batch))
                rows.append(tuple(torch.stack(chunks).sum(dim=0) for chunks in zip(*taken, strict=True)))
                taken.clear()
    finally:
        hook.remove()
    features, outputs = (_summed(trainer, torch.stack(own)) for own in zip(*rows, strict=True))
    return features, outputs


def _summed(trainer: Trainer, rows: Tensor) -> Tensor:
    """(3, C) of rows (N, 3, C), one a micro-batch, of every rank: in the order in which the plan deals them to the ranks."""
    gathered = trainer.strategy.all_gather(rows) if trainer.world_size > 1 else rows[None]  # (ranks, N, 3, C)
    return gathered.transpose(0, 1).flatten(0, 1).sum(dim=0)
