"""Ranks of test_sharding.py: sliced training that is saved, resumed and exported."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.callbacks.checkpoint import CheckpointFile, StepCheckpoint
from lightning_apollo.training.callbacks.export import StageExport
from lightning_apollo.training.callbacks.resume import ExactResume
from lightning_apollo.training.config import CheckpointConfig
from lightning_apollo.training.master_weights import cast, named_masters
from lightning_apollo.training.sharding import build_strategy
from tests.models.clips import randomize
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_steps import Case, prepare, stage_config, whole

NUM_STEPS, ACCUMULATE = 4, 2
RUNS = [f"{strategy}-{dtype}" for strategy in ("fsdp", "ddp") for dtype in ("float32", "bfloat16")]


def build(seed: int = 0) -> VideoLMM:
    """Input and output embeddings are one parameter, and attention drops a tenth."""
    llm = replace(MODEL.llm, tie_word_embeddings=True, attention_dropout=0.1)
    model = build_model(replace(MODEL, llm=llm), ReducerConfig())
    randomize(model, seed)
    return model


class Batches:
    """Batches of one rank, from a position that is read when the first of them is asked for."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.position = 0

    def __iter__(self) -> Iterator[PackedBatch]:
        for number in range(self.position, len(self)):
            self.position += 1
            seed = 10 * number + self.rank
            media = ((), (image(28, 42, seed),), (video(2, 28, 56, seed),))[seed % 3]
            yield pack(sample(*media, seed=seed), sample(seed=seed + 5))

    def __len__(self) -> int:
        return NUM_STEPS * ACCUMULATE


class Data(LightningDataModule):
    """Keep the position. Lightning restores a loader's own state only where no one has asked for the number of steps."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.batches = Batches(rank)

    def train_dataloader(self) -> Batches:
        return self.batches

    def state_dict(self) -> dict[str, int]:
        return {"position": self.batches.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.position = state["position"]


class DtypeRecorder(Callback):
    """Note what types the weights of the LLM's first layer have while it runs, and the gradients before the step."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def note(module: nn.Module, *_: Any) -> None:
            self.running = {parameter.dtype for parameter in module.parameters()}

        pl_module.model.llm.base_model.layers[0].mlp.register_forward_pre_hook(note)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.gradients = {gradient.dtype for gradient in gradients}


class MasterRecorder(Callback):
    """Keep the whole master weights from before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        masters = named_masters(pl_module.model, trainer.optimizers)
        self.weights = {name: whole(master).detach().clone() for name, master in masters.items()}


def run(folder: str) -> None:
    """Train straight, then again from the checkpoint in the middle, sliced and with whole copies, with weights in float32
    and in bfloat16; then under bf16-mixed."""
    prepare()
    rank = int(os.environ["RANK"])
    losses, masters = {}, {}
    for name in RUNS:
        strategy, _, dtype = name.partition("-")
        straight = Path(folder) / name / "straight"
        starts = MasterRecorder()
        trainer = fit(strategy, straight, build(), None, dtype, starts)
        masters[name] = starts.weights
        losses[name] = float(trainer.callback_metrics["loss"])
        torch.manual_seed(99 + rank)  # what a new process has drawn
        middle = straight / "checkpoints" / f"step-{NUM_STEPS // 2:08d}.ckpt"
        fit(strategy, Path(folder) / name / "resumed", build(seed=9), middle, dtype)
    dtypes = DtypeRecorder()
    model = build()
    trainer = fit("fsdp", Path(folder) / "mixed", model, None, "bf16-mixed", dtypes)
    facts = {
        "num_own": sum(_own(parameter).numel() for parameter in model.parameters()),
        "sharded": sorted(name for name, module in model.named_modules() if isinstance(module, FSDPModule)),
        "running": str(dtypes.running),
        "gradients": str(dtypes.gradients),
        "weights": str({parameter.dtype for parameter in model.parameters()}),
        "masters": masters,
        "loss": float(trainer.callback_metrics["loss"]),
        "loss_in_float32": losses["fsdp-float32"],
    }
    torch.save(facts, Path(folder) / f"facts{rank}.pt")


def fit(
    strategy: str,
    folder: Path,
    model: VideoLMM,
    checkpoint: Path | None = None,
    precision: Any = "float32",
    *callbacks: Callback,
) -> Trainer:
    if checkpoint is None:
        torch.manual_seed(int(os.environ["RANK"]))
    start = cast(model, torch.bfloat16) if precision == "bfloat16" else {}
    trainer = quiet_trainer(
        devices=2,
        strategy=build_strategy(strategy),
        precision="bf16-mixed" if precision == "bf16-mixed" else "32-true",
        accumulate_grad_batches=ACCUMULATE,
        callbacks=[
            ExactResume(),
            StepCheckpoint(folder / "checkpoints", CheckpointConfig(every_n_steps=NUM_STEPS // 2, keep=2)),
            StageExport(folder, {}),
            *callbacks,
        ],
        plugins=[CheckpointFile()],
    )
    stage = Stage(model, replace(stage_config(Case(strategy)), activation_checkpointing=True))
    stage.start_weights = start
    trainer.fit(stage, datamodule=Data(trainer.global_rank), ckpt_path=checkpoint, weights_only=True)
    return trainer


def _own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
