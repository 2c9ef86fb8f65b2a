"""Ranks of test_adapters.py: adapters trained by two ranks, sliced and whole."""

import os
from pathlib import Path
from typing import Any

import torch

from lightning_apollo.models.checkpoint.adapter import AdapterOrigin
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.config import LoraConfig, ReducerConfig
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.stages import StageConfig
from lightning_apollo.stages.base import Stage
from lightning_apollo.training.callbacks.export import StageExport
from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.sharding import build_strategy
from tests.models.clips import randomize
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_steps import Batches, prepare

LORA = {name: LoraConfig(rank=4, alpha=8, dropout=0.0) for name in ("llm", "vision")}
CONFIG = StageConfig(
    kind="Stage",
    trains={"vision": 1e-2, "connector": 1e-2, "llm": 1e-2},
    lora=LORA,
    mixture={"any": 1.0},
    image_merge_size=1,
    video_merge_size=2,
    optimizer=OptimizerConfig(warmup_ratio=0.0),
    activation_checkpointing=True,
)


def run(folder: str) -> None:
    prepare()
    for strategy, dtype in (("ddp", torch.float32), ("fsdp", torch.float32), ("fsdp", torch.bfloat16)):
        fit(strategy, dtype, Path(folder) / f"{strategy}-{str(dtype).removeprefix('torch.')}")


def fit(strategy: str, dtype: torch.dtype, folder: Path) -> None:
    """Two steps. Rank 0 has a text alone in one of them, and the other rank an image and a video."""
    rank = int(os.environ["RANK"])
    model = build_model(MODEL, ReducerConfig()).to(dtype)
    randomize(model.to(torch.float32))
    model.to(dtype)
    if rank == 0:
        folder.mkdir(parents=True)
        save_weights(model, folder / "start.safetensors")
    media: list[list[Any]] = [[(), (image(28, 42, 1), video(2, 28, 56, 2))], [(image(28, 28, 3),), ()]]
    batches = [pack(sample(*some[rank], num_text=9, seed=4 * step + rank)) for step, some in enumerate(media)]
    torch.manual_seed(5)  # as fit does, on every rank
    stage = Stage(model, CONFIG)
    origin = AdapterOrigin("test", "videos", CONFIG.trains, CONFIG.lora)
    trainer = quiet_trainer(devices=2, strategy=build_strategy(strategy), callbacks=[StageExport(folder, {}, origin)])
    trainer.fit(stage, train_dataloaders=Batches(batches))
