"""What the folder of a stage says: whether it is finished, with what it was begun, and from where it can go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lightning_apollo.config import Recipe, RecipeError
from lightning_apollo.models.weight_files import ADAPTER
from lightning_apollo.runs.begun import require_same_training
from lightning_apollo.runs.fingerprint import Origin, differences, read_origin
from lightning_apollo.training.callbacks.checkpoint import checkpoint_step, latest_checkpoint
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS

CHECKPOINTS = "checkpoints"


def stage_folder(recipe: Recipe, name: str) -> Path:
    """The folder of a stage's results."""
    return Path(recipe.output) / name


def checkpoint_to_go_on_from(recipe: Recipe, name: str, resume: bool) -> Path | None:
    """The last checkpoint of an unfinished stage; RecipeError where going on, or beginning anew, would be a mistake."""
    folder = stage_folder(recipe, name) / CHECKPOINTS
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return None
    if not resume:
        raise RecipeError(
            f"{folder} has a checkpoint of step {checkpoint_step(checkpoint)}: go on from it with --resume, or begin again "
            f"with --again={name}, which moves the stage's folder aside"
        )
    require_same_training(recipe, name, folder)
    return checkpoint


def clear(folder: Path) -> None:
    """Makes the folder of a stage that begins, and removes what one that ended before its first checkpoint left there.

    The caller has seen that no weights are there: those are never removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DONE, "quarantine.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
