"""A trained model together with what it takes to ask it: the tokenizer and the preprocessing of its training."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from lightning_apollo.config import Recipe, RecipeError
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
