"""Write final weights and done.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_apollo.files import sync, write_atomically
from lightning_apollo.models.checkpoint.adapter import AdapterOrigin, write_adapted
from lightning_apollo.models.checkpoint.files import ADAPTER
from lightning_apollo.models.checkpoint.load import whole_weights, write_weights
from lightning_apollo.training.callbacks.checkpoint import CHECKPOINTS, CheckpointError, kept_checkpoint, write_reason
from lightning_apollo.training.callbacks.ending import end_run
from lightning_apollo.training.master_weights import named_masters

WEIGHTS = "model.safetensors"
DONE = "done.json"
_LOSS = "last_loss"  # key of a checkpoint


class StageExport(Callback):
    """Write the weights and then `done.json` into the stage's folder, each all or nothing, when training ends.

    Of a stage that held its weights in bfloat16, those that trained are written in float32 (see master_weights.py).
    Of a stage with adapters the weights are merged, so that all that reads weights reads them, and `adapter.safetensors`
    has what was trained.
    `done.json` has the number of steps, the loss of the last one, the time, and `facts` that a later run compares. The loss
    travels in the checkpoints: a run that resumes from the last step trains none.
    Where a file cannot be written, all ranks end in one line (CheckpointError), and the checkpoints stay.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], adapters: AdapterOrigin | None = None) -> None:
        self.folder = folder
        self.facts = facts
        self.adapters = adapters
        self._loss = math.nan  # of the step before the checkpoint from which the run resumed

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_LOSS] = self._last_loss(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loss = checkpoint.get(_LOSS, math.nan)  # earlier versions wrote none

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        masters = named_masters(pl_module.get_submodule("model"), trainer.optimizers)
        state = whole_weights(
            pl_module.get_submodule("model"), masters
        )  # every rank: each may hold slices of the weights
        error = self._write(trainer, state) if trainer.is_global_zero else None
        if trainer.strategy.reduce_boolean_decision(error is None, all=True):
            return
        reason = "rank 0 could not write them" if error is None else write_reason(error)
        kept = kept_checkpoint(self.folder / CHECKPOINTS)
        end_run(
            trainer,
            CheckpointError(
                f"the weights of this stage are not in {self.folder}: {reason}; {kept}: put that right and finish the stage "
                "with --resume"
            ),
        )

    def _write(self, trainer: Trainer, state: dict[str, Tensor]) -> OSError | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.adapters is None:
                write_weights(state, self.folder / WEIGHTS)
            else:
                write_adapted(state, self.adapters, self.folder / WEIGHTS, self.folder / ADAPTER)
            self._write_done(trainer)
        except OSError as error:
            return error
        return None

    def _write_done(self, trainer: Trainer) -> None:
        sync(self.folder)  # the weights have their name on the disk before anything says so
        done = {
            "steps": trainer.global_step,
            "loss": self._last_loss(trainer),
            "finished": datetime.now(UTC).isoformat(),  # tells these weights from any others of the same recipe
            **self.facts,
        }
        with write_atomically(self.folder / DONE) as partial:
            partial.write_text(json.dumps(done, indent=2) + "\n")
            sync(partial)
        sync(self.folder)  # only then may the checkpoints go

    def _last_loss(self, trainer: Trainer) -> float:
        return float(trainer.callback_metrics.get("loss", self._loss))
