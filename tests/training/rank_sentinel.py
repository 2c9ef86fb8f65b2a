"""Ranks of the watchdog's test: a model with a collective that one of two ranks does not take part in."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lightning_apollo.stages.base import Stage
from lightning_apollo.training.sharding import build_strategy
from lightning_apollo.training.watchdog.callback import Sentinel
from tests.models.samples import pack
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_steps import Batches, Case, build, prepare, samples, stage_config

BROKEN_BATCH = 2  # the third micro-batch
FAULTS = {"none": (), "skip": (0, 1), "extra": (1,)}  # the ranks that run the connector's own collective


class Connector(nn.Module):
    """A connector with a collective of its own, in one micro-batch, on some ranks."""

    def __init__(self, connector: nn.Module, ranks: tuple[int, ...], folder: Path) -> None:
        super().__init__()
        self.connector = connector
        self.ranks = ranks
        self.folder = folder
        self.group: distributed.ProcessGroup | None = None
        self.num_calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        if self.num_calls == BROKEN_BATCH and distributed.get_rank() in self.ranks:
            (self.folder / "stuck").write_text(str(time.time()))
            distributed.all_reduce(torch.ones(1), group=self.group)
        self.num_calls += 1
        return self.connector(tokens)


class BrokenStage(Stage):
    fault = "none"

    def on_train_start(self) -> None:
        super().on_train_start()
        self.model.connector.group = distributed.new_group()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The second rank goes around the connector's collective, and so around the connector, where the fault is `skip`."""
        if (self.fault, batch_idx, distributed.get_rank()) == ("skip", BROKEN_BATCH, 1):
            self.model.connector = self.model.connector.connector
        return super().training_step(batch, batch_idx)


def run(folder: str, fault: str, patience_seconds: str, end_seconds: str) -> None:
    prepare()
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    rank = int(os.environ["RANK"])
    model = build(is_clips=False)
    model.connector = Connector(model.connector, FAULTS[fault], Path(folder))
    stage = BrokenStage(model, stage_config(Case("ddp")))
    stage.fault = fault
    trainer = quiet_trainer(
        devices=2,
        strategy=build_strategy("ddp"),
        callbacks=[Sentinel(Path(folder), float(patience_seconds), float(end_seconds))],
    )
    batches = [pack(one) for one in samples(is_clips=False)[4 * rank : 4 * rank + 4]]
    trainer.fit(stage, train_dataloaders=Batches(batches))
    (Path(folder) / f"finished{rank}").touch()
