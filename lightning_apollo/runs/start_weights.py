"""Start weights of a stage: path and digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lightning_apollo.errors import RecipeError
from lightning_apollo.models.checkpoint.files import weight_files
from lightning_apollo.recipe.early_checks import require_weights
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.file_digest import digest_file, digest_files
from lightning_apollo.training.callbacks.export import WEIGHTS


def start_file(recipe: Recipe, name: str) -> Path | None:
    """The weights that the stage starts from; None for the model's own."""
    init = recipe.stages[name].init
    if init != "previous":
        return Path(init) / WEIGHTS if Path(init).is_dir() else Path(init)
    names = list(recipe.stages)
    position = names.index(name)
    return Path(recipe.output) / names[position - 1] / WEIGHTS if position else None


def require_start(recipe: Recipe, name: str) -> None:
    """RecipeError where the file that the stage starts from is not there."""
    path = start_file(recipe, name)
    if path is None or path.is_file():
        return
    if recipe.stages[name].init == "previous":
        raise RecipeError(f"stage {name} starts from {path}, which is not there: train the stage before it first")
    raise RecipeError(f"stages.{name}.init: {path}: no such file")


def digest_of_start(recipe: Recipe, name: str) -> str | None:
    """A hash of the start weights' content; None for random weights. RecipeError where they are not there.

    Published weights in a folder or file of this machine count by their content, those of a hub by their name: the same
    name must say the same before and after they are fetched.
    """
    require_start(recipe, name)
    path = start_file(recipe, name)
    if path is not None:
        return digest_file(path)
    published = {part: _published(weights) for part, weights in recipe.model.weights.items() if weights is not None}
    return hashlib.sha256(json.dumps(published, sort_keys=True).encode()).hexdigest() if published else None


def _published(name_or_path: str) -> str:
    require_weights(name_or_path)
    path = Path(name_or_path)
    return digest_files(weight_files(path)) if path.exists() else name_or_path
