"""One plan on all ranks, compared before the first step."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.training.processes.agreement import RanksDisagree, disagreement


class SamePlan(Callback):
    """End all ranks where one of them has opened other data, or would deal them otherwise, in one line that names it."""

    def __init__(self, facts: Callable[[], Mapping[str, str]]) -> None:
        """facts: of this rank's data and plan, once they are opened."""
        self._facts = facts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        seen: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(seen, {"facts": self._facts(), "problem": "", "host": socket.gethostname()})
        if verdict := disagreement(seen, [rank["host"] for rank in seen]):
            raise RanksDisagree(verdict)
