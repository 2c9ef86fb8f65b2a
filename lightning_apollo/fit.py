"""Runs a recipe: its stages one after the other, each in a process and a folder of its own.

output/STAGE/  recipe.yaml         the resolved recipe
               metrics.csv         one row a step, readable while the stage trains
               tensorboard/
               quarantine.jsonl    the samples that were skipped, where there were any
               model.safetensors   the weights, written when the stage is finished
               done.json           steps, loss, and what they were trained from
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich import get_console

from lightning_apollo.config import Recipe, RecipeError, save_recipe
from lightning_apollo.data.datamodule import Batching, VideoDataModule
from lightning_apollo.models.checkpoints import load_pretrained, load_weights
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.stages import find_stage
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS, StageExport
from lightning_apollo.training.callbacks.progress import StepProgress

# Settings that change how fast a stage runs and not what it learns
_WITHOUT_EFFECT = ("num_workers", "decoder_threads")

# Weights in these types are cast here: Lightning's plugins for them would also cast the batch, whose numbers are exact
_WEIGHT_DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}

Say = Callable[[str], None]


def _print_line(line: str) -> None:
    get_console().print(line, markup=False, soft_wrap=True)


def run_recipe(recipe: Recipe, stage: str | None = None, say: Say = _print_line) -> None:
    """Trains the stages of a recipe in order, or the one called `stage`; a finished stage is not trained again.

    Each stage runs in a process of its own, which shares the terminal; the first that fails ends the run with its
    exit code. With `stage` given, that stage runs in this process.
    """
    if stage is not None:
        if stage not in recipe.stages:
            raise RecipeError(f"{recipe.name} has no stage {stage}; it has {', '.join(recipe.stages)}")
        if not _said_finished(recipe, stage, say):
            run_stage(recipe, stage)
        return
    if "WORLD_SIZE" in os.environ:
        raise RecipeError(
            f"torchrun starts one stage at a time: add --stage NAME, one of {', '.join(recipe.stages)}, in this order"
        )
    for number, name in enumerate(recipe.stages, start=1):
        if _said_finished(recipe, name, say):
            continue
        say(f"stage {number} of {len(recipe.stages)}: {name}")
        path = stage_folder(recipe, name) / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, path)
        command = [sys.executable, "-m", "lightning_apollo.cli", "fit", str(path), "--stage", name]
        code = subprocess.run(command, check=False).returncode
        if code:
            raise SystemExit(code if code > 0 else 128 - code)  # ended by a signal: as a shell counts it


def run_stage(recipe: Recipe, name: str) -> None:
    """Trains one stage in this process and exports its weights."""
    config, folder = recipe.stages[name], stage_folder(recipe, name)
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    _silence_lightning()
    seed_everything(recipe.seed, verbose=False)
    facts = {"fingerprint": fingerprint(recipe, name), "started_from": _digest_of_start(recipe, name)}
    trainer = _build_trainer(recipe, name, [StageExport(folder, facts)])
    model = build_model(recipe.model, config.reducer)
    _load_start(model, recipe, name)
    model.to(_WEIGHT_DTYPES.get(recipe.trainer.precision, torch.float32))
    if trainer.is_global_zero:
        _clear(folder)
        save_recipe(recipe, folder / "recipe.yaml")
    trainer.fit(find_stage(config.kind)(model, config), datamodule=build_data(recipe, name))


def stage_folder(recipe: Recipe, name: str) -> Path:
    """The folder of a stage's results."""
    return Path(recipe.output) / name


def is_finished(recipe: Recipe, name: str) -> bool:
    """Whether the stage's weights were trained with these very settings, from the weights that lie before it now."""
    folder = stage_folder(recipe, name)
    if not (folder / DONE).is_file() or not (folder / WEIGHTS).is_file():
        return False
    done = json.loads((folder / DONE).read_text())
    return done["fingerprint"] == fingerprint(recipe, name) and done["started_from"] == _digest_of_start(recipe, name)


def fingerprint(recipe: Recipe, name: str) -> str:
    """A hash of all settings that the stage's weights depend on; the files of the data are not read."""
    stage, data = recipe.stages[name], asdict(recipe.data)
    settings = {
        "model": asdict(recipe.model),
        "data": {key: value for key, value in data.items() if key not in _WITHOUT_EFFECT},
        "stage": asdict(stage),
        "compat": recipe.compat,
        "seed": recipe.seed,
        "precision": recipe.trainer.precision,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _said_finished(recipe: Recipe, name: str, say: Say) -> bool:
    if not is_finished(recipe, name):
        return False
    say(f"stage {name} is finished and not trained again: {stage_folder(recipe, name) / WEIGHTS}")
    return True


def _start_file(recipe: Recipe, name: str) -> Path | None:
    """The weights that the stage starts from; None for the model's own."""
    init = recipe.stages[name].init
    if init != "previous":
        return Path(init) / WEIGHTS if Path(init).is_dir() else Path(init)
    names = list(recipe.stages)
    position = names.index(name)
    return stage_folder(recipe, names[position - 1]) / WEIGHTS if position else None


def _digest_of_start(recipe: Recipe, name: str) -> str | None:
    """A hash that changes when the weights that the stage starts from are trained again; None without such weights."""
    path = _start_file(recipe, name)
    if path is None or not path.is_file():
        return None
    done = path.with_name(DONE)
    facts = done.read_text() if done.is_file() else f"{path.stat().st_size} {path.stat().st_mtime_ns}"
    return hashlib.sha256(facts.encode()).hexdigest()


def _load_start(model: VideoLMM, recipe: Recipe, name: str) -> None:
    path = _start_file(recipe, name)
    if path is None:
        load_pretrained(model, recipe.model)
    elif path.is_file():
        load_weights(model, path)
    elif recipe.stages[name].init == "previous":
        raise RecipeError(f"stage {name} starts from {path}, which is not there: train the stage before it first")
    else:
        raise RecipeError(f"stages.{name}.init: {path}: no such file")


def _build_trainer(recipe: Recipe, name: str, callbacks: list[Callback]) -> Trainer:
    config, stage, folder = recipe.trainer, recipe.stages[name], stage_folder(recipe, name)
    if config.progress_bar:
        callbacks = [StepProgress(name), *callbacks]
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=int(config.devices) if config.devices.isdecimal() else config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",
        max_epochs=stage.epochs if stage.max_steps == -1 else -1,
        max_steps=stage.max_steps,
        log_every_n_steps=config.log_every_n_steps,
        logger=[CSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="tensorboard", version="")],
        callbacks=callbacks,
        enable_progress_bar=config.progress_bar,
        enable_model_summary=False,  # `explain` has it
        enable_checkpointing=False,  # StageExport writes the weights
        use_distributed_sampler=False,  # the order deals to the ranks
        default_root_dir=folder,
    )
    try:
        trainer.accumulate_grad_batches = stage.accumulate(trainer.world_size)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from error
    return trainer


def build_data(recipe: Recipe, name: str) -> VideoDataModule:
    """The data of one stage: its mixture, and the preprocessing that asking its model must repeat."""
    stage = recipe.stages[name]
    batching = Batching(
        mixture=stage.mixture,
        image_merge_size=stage.image_merge_size,
        video_merge_size=stage.video_merge_size,
        micro_batch_size=stage.micro_batch_size,
        global_batch_size=stage.global_batch_size,
        shares=stage.shares,
        clip=recipe.model.clip,
        max_clips=stage.max_clips,
    )
    tokenizer = load_tokenizer(recipe.model.llm.tokenizer)
    folder = stage_folder(recipe, name)
    return VideoDataModule(recipe.data, batching, tokenizer, recipe.model.patch_size, folder, recipe.seed)


def _clear(folder: Path) -> None:
    """Removes what an earlier training of the stage left, so that nothing of it is taken for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DONE, WEIGHTS, "quarantine.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _silence_lightning() -> None:
    """Hides what Lightning says on every start and a user of a recipe can do nothing about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
