"""Where trained models lie, and how they are loaded: the folder of a finished stage, a recipe, an export."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lightning_apollo.config import Recipe, RecipeError, load_recipe
from lightning_apollo.fit import build_data
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.checkpoints import load_weights
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exported import is_exported, load_exported


def load_checkpoint(checkpoint: str, overrides: Sequence[str] = (), device: torch.device | str = "cpu") -> TrainedModel:
    """Returns the model of an exported folder, of a finished stage's folder, or of the last stage of a recipe.

    `overrides` are `key=value` words for the recipe; an export has none. See `find_stage_of`.
    """
    if is_exported(Path(checkpoint)):
        if overrides:
            raise RecipeError(f"{checkpoint} is an export, whose settings are fixed: leave {' '.join(overrides)} out")
        return load_exported(Path(checkpoint), device)
    recipe, stage = find_stage_of(checkpoint, overrides)
    return load_trained(recipe, stage, device)


def load_trained(recipe: Recipe, stage: str | None = None, device: torch.device | str = "cpu") -> TrainedModel:
    """Returns the model after `stage` (the last one where None), reducing and sampling as that stage did."""
    name = stage or list(recipe.stages)[-1]
    model = build_model(recipe.model, recipe.stages[name].reducer)
    load_weights(model, trained_weights(recipe, name))
    tokenizer = load_tokenizer_of(recipe.model.llm)
    return TrainedModel(model.eval().to(device), tokenizer, build_data(recipe, name).preparer)


def trained_weights(recipe: Recipe, stage: str) -> Path:
    """The file of a finished stage's weights; RecipeError where it is not there."""
    weights = stage_folder(recipe, stage) / WEIGHTS
    if not weights.is_file():
        raise RecipeError(f"{weights} is not there: train it first with `lightning-apollo fit`")
    return weights


def find_stage_of(checkpoint: str, overrides: Sequence[str] = (), stage: str | None = None) -> tuple[Recipe, str]:
    """The recipe and stage of a stage's folder, wherever it was moved to, or the last stage of a recipe.

    `overrides` are `key=value` words, as `fit` takes them; `stage` names another stage of that recipe.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        recipe = load_recipe(checkpoint, overrides)
        name = list(recipe.stages)[-1]
    elif not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} has no recipe.yaml: name the folder of a stage that `fit` has finished")
    else:
        folder = folder.resolve()
        recipe = replace(load_recipe(folder / "recipe.yaml", overrides), output=str(folder.parent))
        name = folder.name
    known = ", ".join(recipe.stages)
    if stage is not None and stage not in recipe.stages:
        raise RecipeError(f"{checkpoint}: no stage {stage}: name one of {known}")
    if stage is None and name not in recipe.stages:
        raise RecipeError(f"{folder} is called like no stage of its recipe: {known}: rename it back")
    return recipe, stage or name
