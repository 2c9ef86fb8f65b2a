"""Common end of all ranks after an error that all of them know, reported once."""

from __future__ import annotations

import logging
from typing import NoReturn

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy

from lightning_apollo.errors import UserError

_EXIT_CODE = 2  # of a command that ends in a UserError

logger = logging.getLogger(__name__)


def end_run(trainer: Trainer, error: UserError) -> NoReturn:
    """Raise the error, or of several ranks, each of which calls this, let rank 0 say it and end each with SystemExit.

    Launchers kill the other ranks once one has left: they leave when all has been said. Ranks that rank 0 started itself
    leave with code 0, or Lightning would kill rank 0.
    """
    if trainer.world_size == 1:
        raise error
    if trainer.is_global_zero:
        logger.error("%s", error)
    trainer.strategy.barrier()
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    is_own = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    raise SystemExit(0 if is_own else _EXIT_CODE)
