"""Disk space for the final weights, checked before the last step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.training.callbacks.checkpoint import CHECKPOINTS, CheckpointError, kept_checkpoint
from lightning_apollo.training.callbacks.ending import end_run


class FinalRoom(Callback):
    """End the run before its last step where the final weights would find no room; it has its place before Preemption.

    Rank 0 looks, and all ranks end together, in one line (CheckpointError). The checkpoints stay for `--resume`.
    """

    def __init__(self, folder: Path, num_bytes: int) -> None:
        """folder: the stage's; num_bytes: of the files that it is to hold at its end."""
        self.folder = folder
        self.num_bytes = num_bytes
        self._step = 0
        self._free: int | None = None  # bytes, where they are too few

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # a micro-batch that is only added to the next ones
        self._step = trainer.global_step
        if self._step + 1 != trainer.estimated_stepping_batches:
            return
        free = free_bytes(self.folder) if trainer.is_global_zero else self.num_bytes
        if not trainer.strategy.reduce_boolean_decision(free >= self.num_bytes, all=True):
            self._free = free
            trainer.should_stop = True  # once the loggers have the step's row

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._free is None:
            return
        end_run(
            trainer,
            CheckpointError(
                f"stopped before the last step: the weights of this stage take {in_words(self.num_bytes)} and {self.folder} "
                f"has room for {in_words(self._free)}; {kept_checkpoint(self.folder / CHECKPOINTS)}: make room and finish "
                "the stage with --resume"
            ),
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the disk of a folder, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def in_words(num_bytes: float) -> str:
    """The number with a unit, for people."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
