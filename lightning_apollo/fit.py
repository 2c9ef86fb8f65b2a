"""Runs a recipe: its stages one after the other, each in a process and a folder of its own.

output/STAGE/  recipe.yaml         the resolved recipe
               metrics.csv         one row a step, readable while the stage trains
               tensorboard/
               sentinel.log        where ranks waited for each other, where trainer.sentinel was on and they did
               quarantine.jsonl    the samples that were skipped, where there were any
               checkpoints/        the last of them, and begun.json: with what settings; gone once the stage is finished
               index/              what packing plans with, where a stage packs
               model.safetensors   the weights, written when the stage is finished
               adapter.safetensors what a stage with `lora` trained; merged into the weights as well
               done.json           steps, loss, and what they were trained from
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich import get_console

from lightning_apollo.config import Recipe, RecipeError, save_recipe
from lightning_apollo.data.datamodule import Batching, VideoDataModule
from lightning_apollo.data.index_tokens import TextCounter
from lightning_apollo.data.plan import PlanConfig
from lightning_apollo.models.adapter_file import AdapterOrigin
from lightning_apollo.models.checkpoints import load_pretrained, load_weights
from lightning_apollo.models.flops import BatchSizes, count_flops
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.models.lora import AdapterSizes, adapter_sizes
from lightning_apollo.models.reduce import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.preparation_progress import preparation_progress
from lightning_apollo.stage_state import (
    CHECKPOINTS,
    checkpoint_to_go_on_from,
    clear,
    digest_of_start,
    fingerprint,
    is_finished,
    stage_folder,
    start_file,
    write_begun,
)
from lightning_apollo.stages import Stage, StageConfig, find_stage
from lightning_apollo.training.callbacks.checkpoint import CheckpointFile, StepCheckpoint, checkpoint_step
from lightning_apollo.training.callbacks.connector_start import ConnectorStart
from lightning_apollo.training.callbacks.export import WEIGHTS, StageExport
from lightning_apollo.training.callbacks.non_finite import NonFinite
from lightning_apollo.training.callbacks.preemption import Preemption, run_passing_signals_on, slurm_environment
from lightning_apollo.training.callbacks.progress import StepProgress
from lightning_apollo.training.callbacks.resume import ExactResume
from lightning_apollo.training.callbacks.sight import Sight
from lightning_apollo.training.callbacks.step_time import StepTime
from lightning_apollo.training.sentinel import Sentinel
from lightning_apollo.training.sharding import build_strategy
from lightning_apollo.training.step_log import StepLog
from lightning_apollo.training.verdict import DataSeconds

# Weights in these types are cast here: Lightning's plugins for them would also cast the batch, whose numbers are exact
WEIGHT_DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}

_MATRIX_DTYPES = {  # of matrix products, by precision
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}

Say = Callable[[str], None]


def _print_line(line: str) -> None:
    get_console().print(line, markup=False, soft_wrap=True)


def run_recipe(recipe: Recipe, stage: str | None = None, resume: bool = False, say: Say = _print_line) -> None:
    """Trains the stages of a recipe in order, or the one called `stage`; a finished stage is not trained again.

    Each stage runs in a process of its own, which shares the terminal; the first that fails ends the run with its
    exit code. With `stage` given, that stage runs in this process. With `resume`, a stage that was stopped goes on from its
    last checkpoint; one that has none begins.
    """
    if stage is not None:
        if stage not in recipe.stages:
            raise RecipeError(f"{recipe.name} has no stage {stage}; it has {', '.join(recipe.stages)}")
        if not _said_finished(recipe, stage, say):
            run_stage(recipe, stage, resume)
        return
    if "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise RecipeError(
            f"torchrun and srun start one stage at a time: add --stage NAME, one of {', '.join(recipe.stages)}, in this order"
        )
    for number, name in enumerate(recipe.stages, start=1):
        if _said_finished(recipe, name, say):
            continue
        say(f"stage {number} of {len(recipe.stages)}: {name}")
        path = stage_folder(recipe, name) / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, path)
        command = [sys.executable, "-m", "lightning_apollo.cli", "fit", str(path), "--stage", name]
        command += ["--resume"] * resume
        if code := run_passing_signals_on(command):
            raise SystemExit(code)


def run_stage(recipe: Recipe, name: str, resume: bool = False) -> None:
    """Trains one stage in this process and exports its weights; with `resume`, from its last checkpoint if it has one."""
    config, folder = recipe.stages[name], stage_folder(recipe, name)
    checkpoint = checkpoint_to_go_on_from(recipe, name, resume)
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    silence_lightning()
    seed_everything(recipe.seed, verbose=False)
    data = build_data(recipe, name)
    trainer = _build_trainer(recipe, name, data, checkpoint)
    model = build_model(recipe.model, config.reducer)
    if checkpoint is None or config.is_quantized:  # whose checkpoints leave out what can be made again
        _load_start(model, recipe, name)
    model.to(WEIGHT_DTYPES.get(recipe.trainer.precision, torch.float32))
    stage = _build_stage(model, recipe, name)
    if trainer.is_global_zero and checkpoint is None:
        clear(folder)
        write_begun(recipe, name)
    if trainer.is_global_zero:
        save_recipe(recipe, folder / "recipe.yaml")
    try:
        trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if trainer.is_global_zero and is_finished(recipe, name):
            shutil.rmtree(folder / CHECKPOINTS)  # the weights are written


def _said_finished(recipe: Recipe, name: str, say: Say) -> bool:
    if not is_finished(recipe, name):
        return False
    say(f"stage {name} is finished and not trained again: {stage_folder(recipe, name) / WEIGHTS}")
    return True


def _build_stage(model: VideoLMM, recipe: Recipe, name: str) -> Stage:
    config = recipe.stages[name]
    try:
        return find_stage(config.kind)(model, config)
    except ValueError as error:  # the model has no module of the name that lora gives, or an extra is not installed
        raise RecipeError(f"stages.{name}: {error}") from error


def _load_start(model: VideoLMM, recipe: Recipe, name: str) -> None:
    path = start_file(recipe, name)
    if path is None:
        load_pretrained(model, recipe.model)
    elif path.is_file():
        load_weights(model, path)
    elif recipe.stages[name].init == "previous":
        raise RecipeError(f"stage {name} starts from {path}, which is not there: train the stage before it first")
    else:
        raise RecipeError(f"stages.{name}.init: {path}: no such file")


def _build_trainer(recipe: Recipe, name: str, data: VideoDataModule, checkpoint: Path | None) -> Trainer:
    config, stage, folder = recipe.trainer, recipe.stages[name], stage_folder(recipe, name)
    done = 0 if checkpoint is None else checkpoint_step(checkpoint)
    step_time = _step_time(recipe, name, data)
    sight = [Sight(start_file(recipe, name) is not None, _print_line)] if config.sight else []
    connector = ConnectorStart(recipe.model, start_file(recipe, name) is None, data.peek, _print_line)
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=int(config.devices) if config.devices.isdecimal() else config.devices,
        num_nodes=config.num_nodes,
        strategy=build_strategy(config.strategy),
        precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",
        max_epochs=1,  # the loader goes through all epochs of the stage
        log_every_n_steps=config.log_every_n_steps,
        logger=[
            StepLog(folder, num_steps_kept=done),
            TensorBoardLogger(folder, name="tensorboard", version="", purge_step=done or None),
        ],
        callbacks=[
            *sight,
            connector,
            step_time,
            *stage_callbacks(recipe, name),
        ],  # what the first two run is no step's time
        profiler=step_time.profiler,
        plugins=[CheckpointFile(), *slurm_environment()],
        enable_progress_bar=config.progress_bar,
        enable_model_summary=False,  # `explain` has it
        enable_checkpointing=False,  # StepCheckpoint and StageExport write
        use_distributed_sampler=False,  # the plan deals to the ranks
        default_root_dir=folder,
    )
    try:
        trainer.accumulate_grad_batches = stage.accumulate(trainer.world_size)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from error
    return trainer


def stage_callbacks(recipe: Recipe, name: str) -> list[Callback]:
    """What happens around the steps of a stage, in this order."""
    folder = stage_folder(recipe, name)
    facts = {"fingerprint": fingerprint(recipe, name), "started_from": digest_of_start(recipe, name)}
    checkpoint = StepCheckpoint(folder / CHECKPOINTS, recipe.trainer.checkpoint)
    return [
        *([Sentinel(folder)] if recipe.trainer.sentinel else []),  # first: what others wait for in their hooks is seen
        *([StepProgress(name)] if recipe.trainer.progress_bar else []),
        ExactResume(),
        NonFinite(recipe.trainer.non_finite),
        checkpoint,
        StageExport(folder, facts, _adapters(recipe, name)),
        Preemption(checkpoint, recipe.trainer.preemption, _print_line),  # a stage that is finished is exported first
    ]


def _adapters(recipe: Recipe, name: str) -> AdapterOrigin | None:
    stage = recipe.stages[name]
    return AdapterOrigin(recipe.name, name, stage.trains, stage.lora) if stage.lora else None


def _step_time(recipe: Recipe, name: str, data: VideoDataModule) -> StepTime:
    """What says where the time of the stage's steps goes."""
    stage = recipe.stages[name]

    def seconds() -> DataSeconds:
        return DataSeconds(0.0, 0.0) if data.loader is None else DataSeconds(*data.loader.cost[:2])

    @cache
    def adapters() -> dict[str, AdapterSizes]:
        if not stage.lora:
            return {}
        with torch.device("meta"):
            return adapter_sizes(build_model(recipe.model, ReducerConfig()).components(), stage.lora)

    def flops(sizes: BatchSizes) -> float:
        return count_flops(recipe.model, sizes, stage.trains, adapters=adapters()).total

    return StepTime(seconds, flops, _MATRIX_DTYPES[recipe.trainer.precision], _print_line)


def build_data(recipe: Recipe, name: str) -> VideoDataModule:
    """The data of one stage: its mixture, and the preprocessing that asking its model must repeat."""
    stage = recipe.stages[name]
    batching = Batching(
        mixture=stage.mixture,
        image_merge_size=stage.image_merge_size,
        video_merge_size=stage.video_merge_size,
        micro_batch_size=stage.micro_batch_size,
        global_batch_size=stage.global_batch_size,
        epochs=stage.epochs,
        max_steps=stage.max_steps,
        packing=None if stage.packing is None else plan_config(stage, recipe),
        shares=stage.shares,
        clip=recipe.model.clip,
        max_clips=stage.max_clips,
        stage=name,
    )
    folder = stage_folder(recipe, name)
    progress = preparation_progress if recipe.trainer.progress_bar else None
    return VideoDataModule(
        recipe.data, batching, text_counter(recipe), recipe.model.patch_size, folder, recipe.seed, progress, _print_line
    )


def text_counter(recipe: Recipe) -> TextCounter:
    """The recipe's tokenizer, and how the tokens of text are counted with it."""
    name = recipe.model.llm.tokenizer
    clip_text = None if recipe.model.clip is None else recipe.data.clip_text
    return TextCounter(load_tokenizer(name), name, recipe.data.system_prompt, clip_text)


def plan_config(stage: StageConfig, recipe: Recipe) -> PlanConfig:
    """How a stage that packs wants its epochs planned, but for the weights, which depend on the sizes of the sources."""
    assert stage.packing is not None  # the caller asks only then
    return PlanConfig(
        max_llm_tokens=stage.packing.max_llm_tokens,
        max_patches=stage.packing.max_patches,
        unit=stage.packing.weights,
        seed=recipe.seed,
        step_size=stage.packing.micro_batches,
        cost=recipe.data.cost,
    )


def silence_lightning() -> None:
    """Hides what Lightning says on every start and a user of a recipe can do nothing about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
