"""Visual tokens of a stage that reach the LLM, as far as known before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import nn

from lightning_apollo.models.checkpoint.load import load_vision_weights
from lightning_apollo.models.llm import LanguageModel
from lightning_apollo.models.reduce import Reduction, layout_of, select
from lightning_apollo.models.video_lmm import FrameLMM
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.start_weights import start_file
from lightning_apollo.structures import VisualBatch

Reduce = Callable[[VisualBatch], Reduction]


def known_reduction(recipe: Recipe, stage: str) -> tuple[Reduce | None, str]:
    """Return the stage's reduction, or None where it cannot be known, and a note on it that may be empty.

    Pixels alone decide it but for merge_similar, which needs the encoder's weights.
    """
    config = recipe.stages[stage].reducer
    if config.kind == "none":
        return Reduction.of_all, ""
    if config.kind == "diff_fp":
        return lambda visual: select(visual, layout_of(visual), config), ""
    vision = recipe.model.vision
    assert vision is not None  # encoders of clips have no reducer
    path = start_file(recipe, stage)
    weights = vision.weights if path is None else str(path)
    if weights is None or not Path(weights).exists():
        missing = "the encoder starts from random weights" if weights is None else f"{weights} is not on this machine"
        return None, f"How many tokens are merged is not known: features decide it, and {missing}."
    encoder = VisionEncoder(vision)
    load_vision_weights(encoder, weights)
    # No token passes further than the encoder
    model = FrameLMM(encoder, nn.Identity(), cast(LanguageModel, nn.Identity()), config).eval()
    note = f"Tokens are merged by the features of {weights}, from which the stage starts; they change while it trains."
    return lambda visual: _by_features(visual, model), note


@torch.no_grad()
def _by_features(visual: VisualBatch, model: FrameLMM) -> Reduction:
    return model.encode(visual)[1]
