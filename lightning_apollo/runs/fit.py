"""Run the stages of a recipe, each in a process and a folder of its own.

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
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from lightning_apollo import __version__
from lightning_apollo.data.datamodule import VideoDataModule
from lightning_apollo.files import write_atomically
from lightning_apollo.models.checkpoint.adapter import AdapterOrigin
from lightning_apollo.models.checkpoint.load import load_pretrained, load_weights
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.flops import BatchSizes, count_flops
from lightning_apollo.models.llm import check_positions
from lightning_apollo.models.lora import AdapterSizes, adapter_sizes
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.progress import Say, print_line
from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs.aside import move_aside
from lightning_apollo.runs.begun import write_begun
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.devices import check_devices
from lightning_apollo.runs.fingerprint import read_origin
from lightning_apollo.runs.lock import is_first_rank, sole_writer
from lightning_apollo.runs.room import require_room, stage_bytes
from lightning_apollo.runs.settings import settings_of
from lightning_apollo.runs.stage_folder import (
    CHECKPOINTS,
    Standing,
    clear,
    resume_checkpoint,
    stage_folder,
    standing,
)
from lightning_apollo.runs.start_weights import digest_of_start, require_start, start_file
from lightning_apollo.runs.survey import finished_line, first_to_train, refusal
from lightning_apollo.stages import find_stage
from lightning_apollo.stages.base import Stage
from lightning_apollo.training.callbacks.blank_media_check import BlankMediaCheck
from lightning_apollo.training.callbacks.checkpoint import (
    CheckpointFile,
    StepCheckpoint,
    checkpoint_step,
    latest_checkpoint,
)
from lightning_apollo.training.callbacks.connector_start import ConnectorStart
from lightning_apollo.training.callbacks.export import DONE, StageExport
from lightning_apollo.training.callbacks.non_finite import NonFinite
from lightning_apollo.training.callbacks.preemption import Preemption, slurm_environment, without_handlers
from lightning_apollo.training.callbacks.progress import StepProgress
from lightning_apollo.training.callbacks.resume import ExactResume
from lightning_apollo.training.callbacks.room import FinalRoom
from lightning_apollo.training.callbacks.same_plan import SamePlan
from lightning_apollo.training.master_weights import cast
from lightning_apollo.training.metrics_csv import StepLog
from lightning_apollo.training.processes.agreement import agreed_facts
from lightning_apollo.training.processes.signals import run_passing_signals_on
from lightning_apollo.training.sharding import build_strategy
from lightning_apollo.training.steady_logger import tensorboard
from lightning_apollo.training.timing.bottleneck import DataSeconds
from lightning_apollo.training.timing.step_time import StepTime
from lightning_apollo.training.watchdog.callback import Sentinel

# Weights in these types are cast here: Lightning's plugins for them would also cast the batch, whose numbers are exact
WEIGHT_DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}

_MATRIX_DTYPES = {  # of matrix products, by precision
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}


def run_recipe(
    recipe: Recipe, stage: str | None = None, resume: bool = False, again: str | None = None, say: Say = print_line
) -> None:
    """Train the stages of a recipe in order, or the one called `stage`; a finished stage is not trained again.

    Each stage runs in a process of its own, which shares the terminal; the first that fails ends the run with its
    exit code. With `stage` given, that stage runs in this process. With `resume`, a stage that was stopped resumes from its
    last checkpoint; one that has none begins.
    Weights of another training in a stage's folder are a RecipeError. `again` names the stage that is moved aside with all
    after it and trained anew; "" is the first that is not finished, or where all are, the first.
    """
    for name in (stage, again or None):
        if name is not None and name not in recipe.stages:
            raise RecipeError(f"{recipe.name} has no stage {name}; it has {', '.join(recipe.stages)}")
    if stage is not None:
        if again not in (None, "", stage):
            raise RecipeError(f"--stage {stage} trains that stage alone: leave it out, or set --again={stage}")
        run_stage(recipe, stage, resume, again is not None, say)
        return
    if "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise RecipeError(
            f"torchrun and srun start one stage at a time: add --stage NAME, one of {', '.join(recipe.stages)}, in this order"
        )
    found, first = first_to_train(recipe, again, resume)
    for number, name in enumerate(recipe.stages, start=1):
        if name in found.finished:
            say(finished_line(recipe, name, found.finished[name]))
            continue
        _require_trainable(recipe)
        say(f"stage {number} of {len(recipe.stages)}: {name}")
        if code := _run_in_process(recipe, name, ["--resume"] * resume + [f"--again={name}"] * (name == first)):
            raise SystemExit(code)


def _require_trainable(recipe: Recipe) -> None:
    """RecipeError for what no stage of the recipe can be trained with, on this machine or on any."""
    check_devices(recipe.trainer)
    recipe.require_positions()


def _run_in_process(recipe: Recipe, name: str, options: Sequence[str]) -> int:
    """Exit code of a stage in a process of its own, which writes into the stage's folder once it has seen data and start."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        save_recipe(recipe, path)
        command = [
            sys.executable,
            "-m",
            "lightning_apollo",
            "fit",
            str(path),
            "--stage",
            name,
            "--part-of-run",
        ]
        return run_passing_signals_on([*command, *options])


def run_stage(recipe: Recipe, name: str, resume: bool = False, again: bool = False, say: Say = print_line) -> None:
    """Train one stage in this process and export its weights, unless it is finished.

    With `resume`, it resumes from its last checkpoint if it has one; with `again`, it is moved aside with all after it and
    begins. No other process may write into its folder meanwhile.
    """
    if again or not (stage_folder(recipe, name) / DONE).is_file():  # it will train, or be refused
        _require_trainable(recipe)
    with sole_writer(stage_folder(recipe, name), say):
        seen = agreed_facts(lambda: _seen(recipe, name, resume, again), Path(recipe.output))
        if seen["finished"] == "yes":
            say(finished_line(recipe, name, seen["remark"]))
            return
        checkpoint = None if again else latest_checkpoint(stage_folder(recipe, name) / CHECKPOINTS)
        _train(recipe, name, checkpoint, again, say)


def _seen(recipe: Recipe, name: str, resume: bool, again: bool) -> dict[str, str]:
    """Facts of a stage on this process, for all ranks to compare; RecipeError where the stage may not begin or resume."""
    found = Standing() if again else standing(recipe, name)
    if found.other:
        raise RecipeError(refusal(recipe, name, found.other))
    facts = {"stage": name, "release": __version__, "finished": "yes" if found.is_finished else "no"}
    facts["remark"] = found.remark
    if found.is_finished:
        return facts
    checkpoint = None if again else resume_checkpoint(recipe, name, resume)
    facts["last checkpoint"] = "none" if checkpoint is None else f"that of step {checkpoint_step(checkpoint)}"
    facts["digest of start weights"] = str(digest_of_start(recipe, name))[:12]
    stage = recipe.stages[name]
    facts["seed"] = str(recipe.seed)
    facts["micro_batch_size"] = str(stage.micro_batch_size)  # on which weights do not depend, but what a rank draws
    facts["activation_checkpointing"] = str(stage.activation_checkpointing)
    return facts | {key: str(value) for key, value in settings_of(recipe, name).items()}


def _train(recipe: Recipe, name: str, checkpoint: Path | None, again: bool, say: Say) -> None:
    """Open data and start weights, then write into the stage's folder and train."""
    config, folder = recipe.stages[name], stage_folder(recipe, name)
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    silence_lightning()
    seed_everything(recipe.seed, verbose=False)
    data = build_data(recipe, name)
    require_start(recipe, name)
    if is_first_rank():
        data.require_data()
    trainer = _build_trainer(recipe, name, data, checkpoint)
    if trainer.is_global_zero:
        require_room(recipe, name, print_line)
    model = build_model(recipe.model, config.reducer)
    if checkpoint is None or config.is_quantized:  # whose checkpoints leave out what can be made again
        _load_start(model, recipe, name)
        check_positions(model.llm, recipe.data.budget.max_length)
    stage = _build_stage(model, recipe, name)
    if trainer.is_global_zero and again:
        move_aside(recipe, name, say)
    if trainer.is_global_zero and checkpoint is None:
        clear(folder)
        write_begun(folder / CHECKPOINTS, read_origin(recipe, name))
    if trainer.is_global_zero:
        with write_atomically(folder / "recipe.yaml") as partial:
            save_recipe(recipe, partial)
    try:
        trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if trainer.is_global_zero and (folder / DONE).is_file():
            shutil.rmtree(folder / CHECKPOINTS)  # the weights are written


def _build_stage(model: VideoLMM, recipe: Recipe, name: str) -> Stage:
    config = recipe.stages[name]
    before = cast(model, WEIGHT_DTYPES.get(recipe.trainer.precision, torch.float32))
    try:
        stage = find_stage(config.kind)(model, config)
    except ValueError as error:  # the model has no module of the name that lora gives, or an extra is not installed
        raise RecipeError(f"stages.{name}: {error}") from error
    stage.start_weights = {
        name: before[name] for name, p in model.named_parameters() if p.requires_grad and name in before
    }
    return stage


def _load_start(model: VideoLMM, recipe: Recipe, name: str) -> None:
    path = start_file(recipe, name)
    if path is None:
        load_pretrained(model, recipe.model)
    else:
        require_start(recipe, name)
        load_weights(model, path)


def _build_trainer(recipe: Recipe, name: str, data: VideoDataModule, checkpoint: Path | None) -> Trainer:
    config, stage, folder = recipe.trainer, recipe.stages[name], stage_folder(recipe, name)
    done = 0 if checkpoint is None else checkpoint_step(checkpoint)
    step_time = _step_time(recipe, name, data)
    has_start = start_file(recipe, name) is not None
    blank_media = [BlankMediaCheck(has_start, print_line)] if config.blank_media_check else []
    connector = ConnectorStart(recipe.model, not has_start, data.peek, print_line)
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
            tensorboard(folder, num_steps_kept=done),
        ],
        callbacks=[
            SamePlan(data.digests),
            *blank_media,  # what this and the next one run is no part of a step's time
            connector,
            step_time,
            *stage_callbacks(recipe, name),
        ],
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
    return without_handlers(trainer)


def stage_callbacks(recipe: Recipe, name: str) -> list[Callback]:
    """Callbacks around the steps of a stage, in this order."""
    folder = stage_folder(recipe, name)
    origin = read_origin(recipe, name)
    facts = {"fingerprint": origin.fingerprint, "origin": origin.to_json()}
    checkpoint = StepCheckpoint(folder / CHECKPOINTS, recipe.trainer.checkpoint)
    return [
        *([Sentinel(folder)] if recipe.trainer.sentinel else []),  # first: what others wait for in their hooks is seen
        *([StepProgress(name)] if recipe.trainer.progress_bar else []),
        ExactResume(),
        NonFinite(recipe.trainer.non_finite),
        checkpoint,
        StageExport(folder, facts, _adapters(recipe, name)),
        FinalRoom(folder, stage_bytes(recipe, name).final),
        Preemption(checkpoint, recipe.trainer.preemption, print_line),  # a stage that is finished is exported first
    ]


def _adapters(recipe: Recipe, name: str) -> AdapterOrigin | None:
    stage = recipe.stages[name]
    return AdapterOrigin(recipe.name, name, stage.trains, stage.lora) if stage.lora else None


def _step_time(recipe: Recipe, name: str, data: VideoDataModule) -> StepTime:
    """StepTime callback of the stage."""
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

    return StepTime(seconds, flops, _MATRIX_DTYPES[recipe.trainer.precision], print_line)


def silence_lightning() -> None:
    """Hide what Lightning says on every start and a user of a recipe can do nothing about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
