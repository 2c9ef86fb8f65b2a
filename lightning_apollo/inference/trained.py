"""A trained model together with what it takes to ask it: the tokenizer and the preprocessing of its training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lightning_apollo.config import Recipe, RecipeError, load_recipe
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.fit import build_data
from lightning_apollo.models.checkpoints import load_weights
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS


@dataclass(frozen=True)
class TrainedModel:
    model: VideoLMM
    tokenizer: PreTrainedTokenizerBase
    preparer: Preparer


def load_checkpoint(checkpoint: str, overrides: Sequence[str] = (), device: torch.device | str = "cpu") -> TrainedModel:
    """Returns the model of an exported folder, of a finished stage's folder, or of the last stage of a recipe.

    `overrides` are `key=value` words for the recipe; an export has none. See `find_stage_of`.
    """
    from lightning_apollo.weights.exported import is_exported, load_exported  # which imports TrainedModel from here

    if is_exported(Path(checkpoint)):
        if overrides:
            raise RecipeError(f"{checkpoint} is an export, whose settings are fixed: leave {' '.join(overrides)} out")
        return load_exported(Path(checkpoint), device)
    recipe, stage = find_stage_of(checkpoint, overrides)
    return load_trained(recipe, stage, device)


def load_trained(recipe: Recipe, stage: str | None = None, device: torch.device | str = "cpu") -> TrainedModel:
    """Returns the model after `stage` (the last one where None), reducing and sampling as that stage did."""
    name = stage or list(recipe.stages)[-1]
    config = recipe.stages[name]
    weights = stage_folder(recipe, name) / WEIGHTS
    if not weights.is_file():
        raise RecipeError(f"{weights} is not there: train it first with `lightning-apollo fit`")
    model = build_model(recipe.model, config.reducer)
    load_weights(model, weights)
    tokenizer = load_tokenizer(recipe.model.llm.tokenizer)
    return TrainedModel(model.eval().to(device), tokenizer, build_data(recipe, name).preparer)


def find_stage_of(checkpoint: str, overrides: Sequence[str] = ()) -> tuple[Recipe, str]:
    """The recipe and stage of a stage's folder, wherever it was moved to, or the last stage of a recipe.

    `overrides` are `key=value` words, as `fit` takes them.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        recipe = load_recipe(checkpoint, overrides)
        return recipe, list(recipe.stages)[-1]
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} has no recipe.yaml: name the folder of a stage that `fit` has finished")
    folder = folder.resolve()
    recipe = load_recipe(folder / "recipe.yaml", overrides)
    if folder.name not in recipe.stages:
        raise RecipeError(f"{folder} is called like no stage of its recipe: {', '.join(recipe.stages)}: rename it back")
    return replace(recipe, output=str(folder.parent)), folder.name
