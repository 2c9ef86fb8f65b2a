"""Checkpoints on the way through a stage: each whole or not there, the last few kept.

STAGE/checkpoints/step-00000500.ckpt      one file; where the model is sharded, a folder of that name
                  step-00001000.partial   being written, or left by a process that was killed in the middle: never read

A checkpoint that cannot be written, as where the disk is full, costs nothing but itself: what there was of it is removed, the
ones before it stay, the run continues and says so.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

from lightning_apollo.errors import UserError
from lightning_apollo.files import sync, system_words
from lightning_apollo.training.config import CheckpointConfig

CHECKPOINTS = "checkpoints"  # in a stage's folder
_NAME = re.compile(r"step-(\d{8,})\.ckpt")
# What writing to a file raises: the system's own error, or that of PyTorch's writer, which reports one
WRITE_ERRORS = (OSError, RuntimeError)

logger = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that had to be written and could not be."""


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a folder; None where there is no whole one."""
    return max(_checkpoints(folder), key=checkpoint_step, default=None)


def kept_checkpoint(folder: Path) -> str:
    """The part of an error's line that names the checkpoint for `--resume`."""
    last = latest_checkpoint(folder)
    return "there is no checkpoint" if last is None else f"the checkpoint of step {checkpoint_step(last)} stays"


def checkpoint_step(path: Path) -> int:
    """Optimizer steps before a checkpoint, from its name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not the name of a checkpoint, which is step-00000500.ckpt or the like")
    return int(match[1])


@runtime_checkable
class CheckpointWriter(Protocol):
    """Interface of the writers of checkpoints. An error of writing is kept and not raised: other ranks wait for this one."""

    write_error: BaseException | None  # of the last checkpoint


class CheckpointFile(TorchCheckpointIO):
    """Write straight to the file, without a second copy of everything in memory, and down to the disk."""

    def __init__(self) -> None:
        self.write_error: BaseException | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.write_error = None
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except WRITE_ERRORS as error:
            self.write_error = error


class StepCheckpoint(Callback):
    """Save at the edge of every so many optimizer steps."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder = folder
        self.config = config
        self.num_failures = 0  # checkpoints that could not be written
        self._interval = 1  # steps
        self._saved_step = 0
        self._saved: Path | None = None  # the checkpoint of that step, if it was written

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_step = trainer.global_step
        self._interval = self.config.interval(trainer.estimated_stepping_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step > self._saved_step and step % self._interval == 0:
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path | None:
        """Save now, where this step is not saved yet; to be called by every rank after the last micro-batch of a step. None
        where it cannot be written."""
        if self._saved is not None and self._saved_step == trainer.global_step:
            return self._saved
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        error = self._write(trainer, path)
        self._saved_step = trainer.global_step
        is_written = trainer.strategy.reduce_boolean_decision(error is None, all=True)
        self._saved = path if is_written else None
        if not is_written:
            self._report(trainer, path.with_suffix(".partial"), error)
        elif trainer.is_global_zero:
            self._remove_older()
        return self._saved

    def _write(self, trainer: Trainer, path: Path) -> BaseException | None:
        """Write this rank's part; return why it could not be, where it could not."""
        unfinished = path.with_suffix(".partial")
        strategy = trainer.strategy
        error = _prepare(self.folder) if trainer.is_global_zero else None
        if not strategy.reduce_boolean_decision(error is None, all=True):
            return error
        trainer.save_checkpoint(unfinished, weights_only=False)
        writer = strategy if isinstance(strategy, CheckpointWriter) else strategy.checkpoint_io
        assert isinstance(
            writer, CheckpointWriter
        )  # a ShardedStrategy, or the CheckpointFile that the Trainer was given
        error = writer.write_error
        return _publish(unfinished, path) if error is None and trainer.is_global_zero else error

    def _report(self, trainer: Trainer, unfinished: Path, error: BaseException | None) -> None:
        self.num_failures += 1
        if not trainer.is_global_zero:
            return
        with suppress(OSError):  # of a disk that takes nothing at all; the next save tries again
            _remove(unfinished)
        last = latest_checkpoint(self.folder)
        kept = "there is none" if last is None else f"the last one is that of step {checkpoint_step(last)}"
        reason = "another rank could not write its part" if error is None else write_reason(error)
        logger.error(
            "no checkpoint of step %d: %s; %s. Make room in %s; the run continues",
            *(trainer.global_step, reason, kept, self.folder),
        )

    def _remove_older(self) -> None:
        try:
            _remove(*sorted(_checkpoints(self.folder), key=checkpoint_step)[: -self.config.keep])
        except OSError as error:
            logger.warning("older checkpoints stay: %s", error)


def _prepare(folder: Path) -> OSError | None:
    """Make the folder, without what was left of a checkpoint that was not finished."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
    except OSError as error:
        return error
    return None


def remove_unfinished(folder: Path) -> None:
    """Remove what a process left that was killed in the middle of a save; nobody else may be saving."""
    _remove(*folder.glob("step-*.partial"))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name)]


def _publish(unfinished: Path, path: Path) -> OSError | None:
    """Give a checkpoint its name once all of it is on the disk."""
    try:
        _remove(path)
        for part in unfinished.rglob("*") if unfinished.is_dir() else ():
            sync(part)
        unfinished.rename(path)
        sync(path.parent)
    except OSError as error:
        return error
    return None


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_reason(error: BaseException) -> str:
    """The system's words, or the error's own where there are none."""
    if isinstance(error, CheckpointException):  # what the ranks report, each with where it was
        return write_reason(next(iter(error.failures.values()))[0])
    return system_words(error) or f"the file could not be written ({str(error).splitlines()[0]})"
