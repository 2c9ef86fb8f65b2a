"""Ranks of test_connector_start.py: a step of four micro-batches after calibration of the connector."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.config import ConnectorConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.callbacks.connector_start import ConnectorStart
from lightning_apollo.training.sharding import build_strategy
from tests.models.clips import CLIP_MODEL, FRAMES, FUSED
from tests.models.samples import MODEL, pack
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_steps import Case, prepare, samples, stage_config, whole

CASES = [
    Case("ddp"),
    Case("ddp", is_clips=True),
    Case("fsdp", activation_checkpointing=True),
    Case("fsdp", is_clips=True, activation_checkpointing=True),
]


class Peekable:
    """Batches that a callback may look at before training gets them, as MicroBatchLoader's."""

    def __init__(self, batches: Sequence[PackedBatch]) -> None:
        self.batches = list(batches)
        self.num_given = 0

    def __iter__(self) -> Iterator[PackedBatch]:
        for batch in self.batches:
            self.num_given += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def peek(self, num_batches: int) -> list[PackedBatch]:
        return self.batches[self.num_given : self.num_given + num_batches]


class Keep(Callback):
    """The connector's weights, whole, as training begins."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        connector = pl_module.get_submodule("model.connector")
        self.weights = {name: whole(value).detach().clone() for name, value in connector.named_parameters()}


def run(folder: str) -> None:
    """Save what each rank has of every case."""
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    prepare()
    for case in CASES:
        own = steps(case.is_clips)[rank::num_ranks]  # as the plan deals
        torch.save(calibrated(case, own, num_ranks), Path(folder) / f"{case.name}-{rank}.pt")


def steps(is_clips: bool) -> list[PackedBatch]:
    """Two steps of four micro-batches; the first has text alone in two of them."""
    text_and_media = samples(is_clips)
    first = [pack(text_and_media[i], text_and_media[j]) for i, j in ((0, 4), (1, 2), (5, 6), (3, 0))]
    return [*first, *(pack(one) for one in text_and_media[4:])]


def model_config(is_clips: bool) -> ModelConfig:
    if not is_clips:
        return replace(MODEL, connector=ConnectorConfig(init="calibrated"))
    fused = FusedEncoderConfig(FUSED.image, FUSED.video, FRAMES, encode_batch_size=2)
    return replace(CLIP_MODEL, fused=fused, connector=replace(CLIP_MODEL.connector, init="calibrated"))


def calibrated(case: Case, batches: Sequence[PackedBatch], num_ranks: int) -> dict[str, Tensor]:
    """The connector's weights before the first step, in float32."""
    torch.manual_seed(0)
    config = model_config(case.is_clips)
    stage = Stage(build_model(config, ReducerConfig()), stage_config(case))
    loader, kept = Peekable(batches), Keep()
    trainer = quiet_trainer(
        devices=num_ranks,
        strategy=build_strategy(case.strategy) if num_ranks > 1 else "auto",
        accumulate_grad_batches=4 // num_ranks,
        callbacks=[ConnectorStart(config, True, loader.peek, print), kept],
    )
    trainer.fit(stage, train_dataloaders=loader)
    return kept.weights
