"""Ranks of test_blank_media_check.py: a step of two micro-batches with and without the check."""

import os
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.callbacks.blank_media_check import BlankMediaCheck
from lightning_apollo.training.sharding import build_strategy
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_steps import Batches, Case, build, packed, prepare, samples, stage_config, whole


def run(folder: str, *strategies: str) -> None:
    """Save whether the weights are the same with and without, and what rank 0 logged and said."""
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    prepare()
    for strategy in strategies:
        for is_clips in (False, True):
            share = len(samples(is_clips)) // num_ranks  # the first rank has text alone
            batches = packed(samples(is_clips)[rank * share : (rank + 1) * share], num_batches=2)
            said: list[str] = []
            checked = train(Case(strategy, is_clips), batches, num_ranks, [check := Recording(said)])
            without = train(Case(strategy, is_clips), batches, num_ranks, [])
            is_same = all(torch.equal(checked[name], value) for name, value in without.items())
            result = {"is_same": is_same, "said": said, "metrics": check.metrics}
            torch.save(result, Path(folder) / f"{strategy}-{is_clips}-{rank}.pt")


class Recording(BlankMediaCheck):
    def __init__(self, said: list[str]) -> None:
        super().__init__(starts_trained=False, say=said.append)
        self.metrics: dict[str, float] = {}

    def on_train_end(self, trainer: object, pl_module: object) -> None:
        logged = trainer.logged_metrics.items()  # pyright: ignore[reportAttributeAccessIssue]  Lightning's Trainer
        self.metrics = {name: float(value) for name, value in logged if name.startswith("blank_media/")}


def train(case: Case, batches: list[PackedBatch], num_ranks: int, callbacks: list[Callback]) -> dict[str, torch.Tensor]:
    stage = Stage(build(case.is_clips), stage_config(case))
    trainer = quiet_trainer(
        devices=num_ranks,
        strategy=build_strategy(case.strategy),
        accumulate_grad_batches=len(batches),
        callbacks=callbacks,
    )
    trainer.fit(stage, train_dataloaders=Batches(batches))
    return {name: whole(value).clone() for name, value in stage.state_dict().items()}
