"""Ranks of test_ranks.py: one optimizer step of a Stage under Lightning's Trainer for every case."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.stages import StageConfig
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch, Sample
from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.master_weights import named_masters
from lightning_apollo.training.sharding import build_strategy
from tests.models.clips import CLIP_MODEL, FRAMES, FUSED, clip_item, clip_pixels, randomize
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer

ALL = ("vision", "connector", "llm")


@dataclass(frozen=True)
class Case:
    """One optimizer step; a rank's share of the samples is packed into `accumulate` micro-batches."""

    strategy: str
    is_clips: bool = False  # ClipLMM, else FrameLMM
    trains: tuple[str, ...] = ALL
    accumulate: int = 1
    activation_checkpointing: bool = False
    gradient_clip: float = 0.0
    is_rounded: bool = False  # bfloat16 weights with float32 masters, else float64

    @property
    def name(self) -> str:
        words = [self.strategy, "clips" if self.is_clips else "frames", *self.trains, f"x{self.accumulate}"]
        words += ["rounded"] * self.is_rounded
        return "-".join(words + ["recompute"] * self.activation_checkpointing + ["clip"] * (self.gradient_clip > 0))


def cases(strategy: str) -> list[Case]:
    parts = [ALL, ("vision", "connector"), ("connector",), ("connector", "llm"), ("llm",)]
    steps = [Case(strategy, is_clips, trains) for is_clips in (False, True) for trains in parts]
    for is_clips in (False, True):
        steps.append(Case(strategy, is_clips, accumulate=2))
        steps.append(Case(strategy, is_clips, accumulate=2, activation_checkpointing=True, gradient_clip=0.1))
    return steps


def rounded_case(strategy: str, num_ranks: int) -> Case:
    """Micro-batches of one sample each."""
    return Case(strategy, accumulate=len(samples(is_clips=False)) // num_ranks, is_rounded=True)


def samples(is_clips: bool) -> list[Sample]:
    """Four of text alone, then four with media; 2 to 9 labels each, so that a mean of means is not the mean.

    Of the four with media the clips differ in number from sample to sample: one to five chunks of two clips.
    """
    if is_clips:
        items = [[_clips(2, 1)], [_clips(9, 2), _clips(1, 3)], [_image(4)], [_clips(3, 5), _image(6)]]
    else:
        items = [
            [video(2, 28, 56, 1)],
            [image(28, 42, 2)],
            [image(28, 28, 3), video(1, 28, 28, 4)],
            [video(3, 28, 28, 5)],
        ]
    visuals = [[], [], [], [], *items]
    return [sample(*some, num_text=4 + 2 * seed, seed=seed) for seed, some in enumerate(visuals)]


def build(is_clips: bool) -> VideoLMM:
    """The same weights in every process, large enough that every path matters."""
    config = MODEL
    if is_clips:  # two clips at a time
        config = replace(CLIP_MODEL, fused=FusedEncoderConfig(FUSED.image, FUSED.video, FRAMES, encode_batch_size=2))
    model = build_model(config, ReducerConfig())
    randomize(model)
    return model.double()


def run_cases(folder: str, *strategies: str) -> None:
    """Save what rank 0 has after every case: the gradients that the optimizer got and their norm."""
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    prepare()
    for case in (case for strategy in strategies for case in [*cases(strategy), rounded_case(strategy, num_ranks)]):
        model = build(case.is_clips)
        stage = RecordingStage(model.bfloat16() if case.is_rounded else model, stage_config(case))
        share = len(samples(case.is_clips)) // num_ranks
        mine = samples(case.is_clips)[rank * share : (rank + 1) * share]
        trainer = fit(stage, packed(mine, case.accumulate), build_strategy(case.strategy), num_ranks, case.accumulate)
        norm = trainer.logged_metrics["grad_norm"]
        if rank == 0:
            torch.save({"gradients": stage.gradients, "norm": norm}, Path(folder) / f"{case.name}.pt")


def packed(some: Sequence[Sample], num_batches: int) -> list[PackedBatch]:
    size = len(some) // num_batches
    return [pack(*some[start : start + size]) for start in range(0, len(some), size)]


def stage_config(case: Case) -> StageConfig:
    return StageConfig(
        kind="Stage",
        trains=dict.fromkeys(case.trains, 1e-3),
        mixture={"any": 1.0},
        image_merge_size=1,
        video_merge_size=1 if case.is_clips else 2,
        optimizer=OptimizerConfig(warmup_ratio=0.0, gradient_clip=case.gradient_clip),
        activation_checkpointing=case.activation_checkpointing,
    )


class RecordingStage(Stage):
    """Keep the gradient that the optimizer gets, whole."""

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(*args, **kwargs)
        stepped = {**dict(self.model.named_parameters()), **named_masters(self.model, self.trainer.optimizers)}
        self.gradients = {
            name: whole(tensor.grad).clone() for name, tensor in stepped.items() if tensor.grad is not None
        }


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Batches:
    """The loader of Lightning's that is least in the way."""

    def __init__(self, batches: Sequence[PackedBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[PackedBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def fit(stage: Stage, batches: Sequence[PackedBatch], strategy: Any, num_ranks: int, accumulate: int = 1) -> Trainer:
    trainer = quiet_trainer(
        devices=num_ranks,
        strategy=strategy,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(stage, train_dataloaders=Batches(batches))
    return trainer


def _clips(num_clips: int, seed: int) -> Any:
    return clip_item(clip_pixels(num_clips * FRAMES, 9, 14, seed))


def _image(seed: int) -> Any:
    return clip_item(clip_pixels(1, 16, 11, seed))


def prepare() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
