"""A run that is asked to stop saves at the edge of its step and ends there; `fit --resume` goes on as if it had not.

SIGUSR1  SLURM's notice that time is up (`sbatch --signal=USR1@180`): save, put the job back into the queue, end.
SIGTERM  whoever sends it ends the run and knows why, as scancel, torchrun and SLURM's own preemption do: save, end.

The handlers note the signal and nothing else. All ranks look at the notes together after each optimizer step, so that one rank's
is enough, all save the same step, and nothing is ever saved in the middle of one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy

from lightning_apollo.training.callbacks.checkpoint import CheckpointError, StepCheckpoint

EXIT_CODE = os.EX_TEMPFAIL  # 75, of a run that stopped before its end and is to be started again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # where both come, SIGUSR1 counts

_SCONTROL_SECONDS = 60.0


class Preempted(SystemExit):
    """The end of a process whose run was asked to stop: it was saved, and `code` says that it is not finished."""


@dataclass(frozen=True)
class PreemptionConfig:
    """What a run does that SLURM tells to stop, beside saving."""

    requeue: bool = True  # puts the job back into the queue after SIGUSR1


class Preemption(Callback):
    """Saves and raises Preempted at the edge of the step in which a signal comes; it has its place behind StageExport.

    A signal during the last step, or while the stage's weights are written, lets the stage finish first. Lightning's own
    handler of SIGTERM, which talks to the other ranks wherever it interrupts this one, does not run while training.
    """

    def __init__(self, checkpoint: StepCheckpoint, config: PreemptionConfig, say: Callable[[str], None]) -> None:
        """checkpoint: what saves; say: where the line about the end goes, on rank 0."""
        self.checkpoint = checkpoint
        self.config = config
        self._say = say
        self._noted = 0  # 1 + place in SIGNALS of what came to this process; 0: nothing
        self._agreed = 0  # the same over all ranks, at the last edge
        self._saved: Path | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        for number in SIGNALS:  # over Lightning's; when the run ends, Lightning puts back what was before both
            signal.signal(number, self._note)

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
                f"{self.checkpoint.folder} and go on from the last one with --resume"
            )
        self._end(trainer, f"checkpoint {self._saved}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agreed = self._agree(trainer)
        if self._agreed:
            self._end(trainer, "this stage is finished")

    @property
    def _signal(self) -> signal.Signals:
        return SIGNALS[self._agreed - 1]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = max(self._noted, 1 + SIGNALS.index(signal.Signals(number)))

    def _agree(self, trainer: Trainer) -> int:
        if trainer.world_size == 1:
            return self._noted
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))

    def _end(self, trainer: Trainer, kept: str) -> None:
        if trainer.is_global_zero:
            wants_requeue = self.config.requeue and self._signal == signal.SIGUSR1
            job = _job_id() if wants_requeue else None
            after = "start it again with --resume" if job is None else _requeue(job)
            self._say(f"stopped by {self._signal.name} after step {trainer.global_step}: {kept}; {after}")
        trainer.strategy.barrier()  # launchers kill the other ranks once one has left: by now nothing is left to do
        raise Preempted(_exit_code(trainer))


def slurm_environment() -> list[ClusterEnvironment]:
    """What the Trainer's `plugins` need under srun: SLURM's ranks, without Lightning's handlers, which save within a step."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def run_passing_signals_on(command: Sequence[str]) -> int:
    """Runs a command that handles SIGNALS itself, hands on those that come here, and returns its exit code.

    Where it was ended by a signal, 128 + the number, as a shell counts; where it ended well in spite of one, EXIT_CODE: this
    process was asked to stop as well.
    """
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if process is not None:
            process.send_signal(number)

    handlers_before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        process = subprocess.Popen(command)
        for number in tuple(came):  # before there was a process to hand them to
            process.send_signal(number)
        code = process.wait()
    except BaseException:
        if process is not None:
            process.kill()
        raise
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
    if code < 0:
        return 128 - code
    return EXIT_CODE if came and code == 0 else code


def _job_id() -> str | None:
    """This SLURM job, as scontrol calls it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def _requeue(job: str) -> str:
    """Puts the job back into the queue, and returns what came of it."""
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SCONTROL_SECONDS)
        return f"job {job} is requeued"
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    return f"job {job} could not be requeued ({reason}): start it again with --resume"


def _exit_code(trainer: Trainer) -> int:
    """EXIT_CODE; 0 for ranks that rank 0 started itself: Lightning kills rank 0 where one of them ends with another code."""
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    return 0 if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0 else EXIT_CODE
