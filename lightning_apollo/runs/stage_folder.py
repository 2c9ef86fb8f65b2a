"""State of a stage folder: finished, resumable or stale."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.data.shapes.dataset import ShapesError
from lightning_apollo.errors import UserError
from lightning_apollo.models.checkpoint.files import ADAPTER
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs.begun import require_same_training
from lightning_apollo.runs.fingerprint import Origin, differences, read_origin
from lightning_apollo.runs.settings import places_of
from lightning_apollo.training.callbacks.checkpoint import CHECKPOINTS, checkpoint_step, latest_checkpoint
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS

_MAX_SHOWN = 3  # differences in one line


@dataclass(frozen=True)
class Standing:
    """One stage: finished by this recipe, or holding weights of another training, or neither."""

    is_finished: bool = False
    remark: str = ""  # of a finished stage, why it could not be compared with the recipe
    other: str = ""  # why its weights are another training's


def stage_folder(recipe: Recipe, name: str) -> Path:
    """The folder of a stage's results."""
    return Path(recipe.output) / name


def has_weights(folder: Path) -> bool:
    """True if something that was trained lies in a stage's folder."""
    return any((folder / file).is_file() for file in (WEIGHTS, ADAPTER))


def is_finished(recipe: Recipe, name: str) -> bool:
    """True where the stage's weights are what this recipe would train, from the data and start weights of now."""
    return standing(recipe, name).is_finished


def standing(recipe: Recipe, name: str) -> Standing:
    """Compare what the stage's weights were trained from with what they would be trained from now.

    Weights whose data or start weights have gone since, from the places that the stage's own recipe names, count as finished,
    with a remark: there is nothing to compare. Where this recipe names other places that are not there, that is the UserError.
    """
    folder = stage_folder(recipe, name)
    if not has_weights(folder):
        return Standing()
    if not (folder / DONE).is_file():
        if latest_checkpoint(folder / CHECKPOINTS) is not None:  # ended while it wrote them: --resume writes them again
            return Standing()
        return Standing(other=f"there is no {DONE} to say from what they were trained")
    if not (folder / WEIGHTS).is_file():
        return Standing(other=f"{WEIGHTS} is not there, {ADAPTER} is")
    try:
        before = Origin.from_json(json.loads((folder / DONE).read_text())["origin"])
    except KeyError:
        return Standing(other="trained by an earlier version, which did not note from what")
    except (ValueError, TypeError, AttributeError):
        return Standing(other=f"{DONE} cannot be read")
    try:
        now = read_origin(recipe, name)
    except UserError as error:
        if isinstance(error, ShapesError) or not _has_same_places(recipe, name):
            raise
        return Standing(is_finished=True, remark=f"not compared with the recipe: {error}")
    changed = differences(before, now)
    return Standing(other=_first(changed)) if changed else Standing(is_finished=True)


def resume_checkpoint(recipe: Recipe, name: str, resume: bool) -> Path | None:
    """The last checkpoint of an unfinished stage; RecipeError where resuming, or beginning anew, would be a mistake."""
    folder = stage_folder(recipe, name) / CHECKPOINTS
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return None
    if not resume:
        raise RecipeError(
            f"{folder} has a checkpoint of step {checkpoint_step(checkpoint)}: resume from it with --resume, or begin again "
            f"with --again={name}, which moves the stage's folder aside"
        )
    require_same_training(recipe, name, folder)
    return checkpoint


def clear(folder: Path) -> None:
    """Make the folder of a stage that begins, and remove what one that ended before its first checkpoint left there.

    The caller has seen that no weights are there: those are never removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DONE, "quarantine.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _has_same_places(recipe: Recipe, name: str) -> bool:
    own = stage_folder(recipe, name) / "recipe.yaml"
    return own.is_file() and places_of(load_recipe(own), name) == places_of(recipe, name)


def _first(phrases: Sequence[str]) -> str:
    return "; ".join(phrases[:_MAX_SHOWN]) + "; ..." * (len(phrases) > _MAX_SHOWN)
