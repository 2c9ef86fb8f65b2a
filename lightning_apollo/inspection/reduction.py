"""Visual tokens of a stage that reach the LLM, as far as known before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from apollo_kernels import Layout
from lightning_apollo.models.checkpoint.load import load_vision_weights
from lightning_apollo.models.llm import LanguageModel
from lightning_apollo.models.reduce import ReducerConfig, Reduction, select
from lightning_apollo.models.video_lmm import FrameLMM
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.start_weights import start_file
from lightning_apollo.structures import VisualBatch


@dataclass(frozen=True)
class KnownReduction:
    """Reduction of the stage, with a remark about it."""

    reduce: Callable[[VisualBatch], Reduction] | None  # None: it cannot be known
    note: str = ""


def known_reduction(recipe: Recipe, stage: str) -> KnownReduction:
    """Return the stage's reduction. Pixels alone decide it but for merge_similar, which needs the encoder's weights."""
    config = recipe.stages[stage].reducer
    if config.kind == "none":
        return KnownReduction(lambda visual: Reduction(keep_mask=None, run_tokens=visual.run_tokens))
    if config.kind == "diff_fp":
        return KnownReduction(lambda visual: _by_pixels(visual, config))
    vision = recipe.model.vision
    assert vision is not None  # encoders of clips have no reducer
    path = start_file(recipe, stage)
    weights = vision.weights if path is None else str(path)
    if weights is None or not Path(weights).exists():
        missing = "the encoder starts from random weights" if weights is None else f"{weights} is not on this machine"
        return KnownReduction(None, f"How many tokens are merged is not known: features decide it, and {missing}.")
    encoder = VisionEncoder(vision)
    load_vision_weights(encoder, weights)
    # No token passes further than the encoder
    model = FrameLMM(encoder, nn.Identity(), cast(LanguageModel, nn.Identity()), config).eval()
    note = f"Tokens are merged by the features of {weights}, from which the stage starts; they change while it trains."
    return KnownReduction(lambda visual: _by_features(visual, model), note)


def _by_pixels(visual: VisualBatch, config: ReducerConfig) -> Reduction:
    return select(visual, Layout.of(visual.sizes, visual.merge_sizes, visual.patch_size), config)


@torch.no_grad()
def _by_features(visual: VisualBatch, model: FrameLMM) -> Reduction:
    return model.encode(visual)[1]
