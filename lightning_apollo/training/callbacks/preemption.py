"""Preemption: save at the edge of a step and stop, so that `fit --resume` loses nothing.

SIGUSR1  SLURM's notice that time is up (`sbatch --signal=USR1@180`): save, put the job back into the queue, end.
SIGTERM  whoever sends it ends the run and knows why, as scancel, torchrun and SLURM's own preemption do: save, end.
SIGINT   Ctrl-C: save, end.

The handlers (training/processes/signals.py) note the signal and nothing else. All ranks look at the notes together after each
optimizer step, so that one rank's is enough, all save the same step, and nothing is ever saved in the middle of one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from lightning_apollo.training.callbacks.checkpoint import CheckpointError, StepCheckpoint
from lightning_apollo.training.config import PreemptionConfig
from lightning_apollo.training.processes.signals import EXIT_CODE, INTERRUPTED, LISTENER, SIGNALS, Preempted, after


class Preemption(Callback):
    """Save and raise Preempted at the edge of the step in which a signal comes; it has its place behind StageExport.

    A signal during the last step, or while the stage's weights are written, lets the stage finish first. One that comes before
    training ends this process, and the ranks that Lightning has started for it.
    """

    def __init__(self, checkpoint: StepCheckpoint, config: PreemptionConfig, say: Callable[[str], None]) -> None:
        """checkpoint: what saves; say: where the line about the end goes, on rank 0."""
        self.checkpoint = checkpoint
        self.config = config
        self._say = say
        self._agreed = 0  # 1 + place in SIGNALS of what came to the ranks by the last edge; 0: nothing
        self._saved: Path | None = None
        self._step = 0
        self._has_begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._has_begun = trainer.global_step, True
        LISTENER.begin_training()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step or trainer.is_last_batch:
            return  # a micro-batch that is only added to the next ones; or nothing is left but to finish
        self._step = trainer.global_step
        self._agreed = self._agree(trainer)
        if self._agreed:
            self._saved = self.checkpoint.save(trainer)
            trainer.should_stop = True  # once the loggers have the step's row

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._agreed:
            return
        if self._saved is None:
            raise CheckpointError(
                f"stopped by {self._signal.name} without a checkpoint of step {trainer.global_step}: make room in "
                f"{self.checkpoint.folder} and resume from the last one with --resume"
            )
        self._end(trainer, f"checkpoint {self._saved}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agreed = self._agree(trainer)
        LISTENER.end_training()
        if self._agreed:
            self._end(trainer, "this stage is finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        launcher = trainer.strategy.launcher
        LISTENER.end_training()
        is_early = isinstance(exception, Preempted) and not self._has_begun
        if is_early and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGTERM)

    @property
    def _signal(self) -> signal.Signals:
        return SIGNALS[self._agreed - 1]

    def _agree(self, trainer: Trainer) -> int:
        noted = 0 if LISTENER.noted is None else 1 + SIGNALS.index(LISTENER.noted)
        if trainer.world_size == 1:
            return noted
        return int(trainer.strategy.reduce(torch.tensor(noted, device=trainer.strategy.root_device), reduce_op="max"))

    def _end(self, trainer: Trainer, kept: str) -> None:
        if trainer.is_global_zero:
            what_next = after(self._signal, self.config.requeue)
            self._say(f"stopped by {self._signal.name} after step {trainer.global_step}: {kept}; {what_next}")
        trainer.strategy.barrier()  # launchers kill the other ranks once one has left: by now nothing is left to do
        raise Preempted(_exit_code(trainer, self._signal))


def slurm_environment() -> list[ClusterEnvironment]:
    """Trainer `plugins` under srun: SLURM's ranks, without Lightning's handlers, which save within a step."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def without_handlers(trainer: Trainer) -> Trainer:
    """Keep Lightning from handling SIGTERM, as it would by talking to the other ranks wherever that interrupts this one."""
    # Lightning has no option for it
    trainer._signal_connector.register_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    return trainer


def _exit_code(trainer: Trainer, came: signal.Signals) -> int:
    """130 or 75; 0 for ranks that rank 0 started itself: Lightning kills rank 0 where one of them ends with another code."""
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
        return 0
    return INTERRUPTED if came == signal.SIGINT else EXIT_CODE
