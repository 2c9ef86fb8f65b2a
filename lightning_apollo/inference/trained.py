"""Load a trained model from a finished stage, a recipe or an export."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_apollo.inference.exported import is_exported, load_exported
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.checkpoint.load import load_weights
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.progress import Say
from lightning_apollo.recipe.early_checks import require_no_words
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.runs.trained_recipe import RECIPE, changes_since, trained_recipe
from lightning_apollo.training.callbacks.export import WEIGHTS

warn: Say = logging.getLogger(__name__).warning


def say_nothing(line: str) -> None:
    """Drop a line that another rank, or an earlier call, has said."""


def load_checkpoint(
    checkpoint: str, overrides: Sequence[str] = (), device: torch.device | str = "cpu", say: Say = warn
) -> TrainedModel:
    """Return the model of an exported folder, of a finished stage's folder, or of the last stage of a recipe.

    `overrides` are `key=value` words for the recipe; an export has none. See `find_stage_of`.
    """
    if is_exported(Path(checkpoint)):
        require_no_words(checkpoint, overrides)
        return load_exported(Path(checkpoint), device)
    recipe, stage = find_stage_of(checkpoint, overrides, say=say)
    return load_trained(recipe, stage, device)


def load_trained(recipe: Recipe, stage: str | None = None, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the model after `stage` (the last one where None), reducing and sampling as this recipe says."""
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


def find_stage_of(
    checkpoint: str, overrides: Sequence[str] = (), stage: str | None = None, say: Say = warn
) -> tuple[Recipe, str]:
    """The recipe and stage of a stage's folder, wherever it was moved to, or the last stage of a recipe.

    `overrides` are `key=value` words, as `fit` takes them; `stage` names another stage of that recipe.
    A recipe says where the stage lies. What counts is what was trained, the recipe.yaml in the stage's folder, with the words
    on top; `say` gets a line where the recipe differs from it now, and one where the words do.
    """
    folder, is_folder = Path(checkpoint), Path(checkpoint).is_dir()
    if is_folder and not (folder / RECIPE).is_file():
        raise RecipeError(f"{folder} has no {RECIPE}: name the folder of a stage that `fit` has finished")
    if is_folder:
        folder = folder.resolve()
        asked = load_recipe(folder / RECIPE, overrides)
        output, name = folder.parent, stage or folder.name
    else:
        asked = load_recipe(checkpoint, overrides)
        output, name = Path(asked.output), stage or list(asked.stages)[-1]
    known = ", ".join(asked.stages)
    if stage is not None and stage not in asked.stages:
        raise RecipeError(f"{checkpoint}: no stage {stage}: name one of {known}")
    if name not in asked.stages:
        raise RecipeError(f"{folder}: folder name matches no stage of its recipe ({known}): rename it back")
    trained = trained_recipe(output, name, overrides)
    if trained is None:  # weights that no `fit` of ours left, or none
        return asked, name
    words = [word.partition("=")[0] for word in overrides]
    if not is_folder and (changed := changes_since(output, name, asked, words)):
        say(f"{checkpoint} has changed since stage {name} was trained, and what it was trained with counts: {changed}")
    if changed := changes_since(output, name, trained):
        say(f"stage {name} is asked otherwise than it was trained: {changed}")
    return trained, name
