"""Calibration of `data.cost` on this device, with the recipe's own model.

P micro-batches that are timed
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from lightning_apollo.data.collate import collate
from lightning_apollo.data.plan.config import CostConfig
from lightning_apollo.models.config import ModelConfig, ReducerConfig
from lightning_apollo.models.flops import BatchSizes, count_flops
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.progress import Progress
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.explain import count_parameters, stage_memory
from lightning_apollo.runs.fit import WEIGHT_DTYPES
from lightning_apollo.stages.config import StageConfig
from lightning_apollo.structures import IGNORE_INDEX, Frames, PackedBatch, Sample, VisualItem
from lightning_apollo.training.losses import token_loss_sum

CONSTANTS = ("vision_square", "vision_patch", "llm_square", "llm_token")  # the fields of CostConfig, in order
_MOST_PATCHES = 4096  # of a frame that is timed: 896×896 pixels in patches of 14
_TEXT_TOKENS = 8  # beside an image
_ROUNDS = 5  # over all micro-batches, after a first one that is not counted

Timer = Callable[[VideoLMM, PackedBatch, str], float]  # seconds of a step in a precision


@dataclass(frozen=True)
class Fit:
    """Constants, and how far off they are."""

    cost: CostConfig
    relative_error: float  # root mean square over the micro-batches


@dataclass(frozen=True)
class Calibration:
    measured: Fit  # in seconds
    analytic: Fit  # in FLOPs, by models/flops.py
    device: str


def step_seconds(model: VideoLMM, batch: PackedBatch, precision: str) -> float:
    """Seconds of forward and backward."""
    device = batch.input_ids.device
    begin = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
        output = model(batch)
    token_loss_sum(output.logits, output.targets).backward()
    model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def calibrate(
    recipe: Recipe, stage: str, timer: Timer = step_seconds, progress: Progress = lambda done, total: None
) -> Calibration:
    """Time forward and backward of the stage's model, with random weights, at sizes that tell the four constants apart.

    Every visual token is kept, as in a plan, which cannot know what a reducer drops. Of several rounds the shortest time of
    each micro-batch counts: what else the machine does can only make it longer. RecipeError where the model has no room.
    """
    config, device = recipe.stages[stage], _device(recipe)
    _check_memory(recipe, config, device)
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    batches = timed_batches(recipe, config)
    model = _model(recipe, config, device)
    seconds = np.full(len(batches), np.inf)
    try:
        for number in range(_ROUNDS + 1):
            progress(number, _ROUNDS + 1)
            timed = [timer(model, batch.to(device), recipe.trainer.precision) for batch in batches]
            seconds = np.minimum(seconds, timed) if number else seconds
    except torch.OutOfMemoryError as error:
        raise RecipeError(f"{device} is out of memory: lower data.budget.max_length") from error
    terms = np.stack([cost_terms(batch, recipe.model) for batch in batches])
    flops = np.array([count_flops(recipe.model, BatchSizes.of(batch), config.trains).total for batch in batches])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    return Calibration(fit_cost(terms, seconds), fit_cost(terms, flops), name)


def fit_cost(terms: NDArray[np.float64], values: NDArray[np.float64]) -> Fit:
    """The constants, none negative, with the least relative squared error; terms: (P, 4), values: (P,).

    What every micro-batch costs whatever its size is fitted, too, and left out: it is the same for all plans. Where all
    frames have one size, as in clips, squares and patches cannot be told apart: either stands for both.
    """
    terms = np.column_stack([terms, np.ones(len(terms))])
    scale = np.where(terms.any(axis=0), terms.max(axis=0), 1.0)
    solution, _ = nnls(terms / scale / values[:, None], np.ones(len(values)))
    constants = solution / scale
    error = terms @ constants / values - 1
    return Fit(CostConfig(*constants[:4].tolist()), float(np.sqrt(np.mean(error**2))))


def cost_terms(batch: PackedBatch, config: ModelConfig) -> NDArray[np.float64]:
    """(4,) what the constants are multiplied by: frame², patches, segment², tokens, each summed, as a plan counts them."""
    visual = batch.visual
    frames = visual.frame_lengths
    if visual.clip is not None:
        patches = (visual.clip.image_size // config.patch_size) ** 2  # of a frame, padded to a square
        frames = [patches] * (sum(visual.num_clips) * visual.clip.num_frames)
    lengths = batch.lengths
    return np.array([sum(n * n for n in frames), sum(frames), sum(n * n for n in lengths), sum(lengths)], np.float64)


def timed_batches(recipe: Recipe, stage: StageConfig) -> list[PackedBatch]:
    """Long and short texts; few large and many small frames, or clips; less of each. None is longer than a sample or
    two may be."""
    model, budget = recipe.model, recipe.data.budget
    longest = budget.max_length
    texts = [[longest], [longest // 2], [longest // 4] * 4, [max(2, longest // 16)] * 16]
    samples = [[_sample(None, length, model) for length in lengths] for lengths in texts]
    for item, num_tokens in _items(model, stage.image_merge_size, min(budget.token_budget, longest // 2)):
        for share in (2, 1):
            samples.append([_sample(item, _TEXT_TOKENS, model)] * max(1, longest // num_tokens // share))
    return [collate(each, model.patch_size) for each in samples]


def _items(config: ModelConfig, merge_size: int, most_tokens: int) -> list[tuple[VisualItem, int]]:
    """Images of three sizes, or one clip, and their visual tokens."""
    clip = config.clip
    if clip is not None:
        frames = _frames(clip.num_frames, clip.image_size)
        return [(VisualItem(frames, "video", merge_size=1, clip=clip), clip.num_tokens)]
    largest = math.isqrt(min(most_tokens, _MOST_PATCHES // merge_size**2))
    sides = sorted({max(1, largest // share) for share in (1, 2, 4)})
    items = [VisualItem(_frames(1, side * merge_size * config.patch_size), "image", merge_size) for side in sides]
    return [(item, side**2) for item, side in zip(items, sides, strict=True)]


def _frames(number: int, side: int) -> Frames:
    pixels = torch.randint(0, 256, (number, 3, side, side), generator=torch.Generator().manual_seed(0))
    return Frames(pixels.to(torch.uint8), torch.arange(number, dtype=torch.float64))


def _sample(item: VisualItem | None, num_text_tokens: int, config: ModelConfig) -> Sample:
    """Visual tokens, then text, of which every fourth token is labelled."""
    num_visual = 0 if item is None else item.num_visual_tokens(config.patch_size)
    ids = torch.arange(num_visual + num_text_tokens) % config.llm.vocab_size
    is_placeholder = torch.arange(len(ids)) < num_visual
    labels = torch.where(is_placeholder | (torch.arange(len(ids)) % 4 != 0), IGNORE_INDEX, ids)
    return Sample("", "", ids, labels, is_placeholder, () if item is None else (item,), config.patch_size)


def _device(recipe: Recipe) -> torch.device:
    on_gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _check_memory(recipe: Recipe, stage: StageConfig, device: torch.device) -> None:
    """Weights and gradients must have room; what activations take is found out."""
    memory = stage_memory(stage, recipe.trainer, count_parameters(recipe))
    needed = memory.weights + memory.gradients
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if needed > free:
        raise RecipeError(
            f"{recipe.name} needs {needed / 2**30:.1f} GiB for weights and gradients, and {device} has {free / 2**30:.1f} GiB "
            "free: calibrate on a device that trains it"
        )


def _free_memory() -> int:
    """Bytes that Linux could give to a new process."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RecipeError("/proc/meminfo does not say how much memory is free: calibrate on Linux")


def _model(recipe: Recipe, stage: StageConfig, device: torch.device) -> VideoLMM:
    with device:
        model = build_model(recipe.model, ReducerConfig())
    for name, component in model.components().items():
        component.requires_grad_(name in stage.trains)
    model.set_activation_checkpointing(stage.activation_checkpointing)
    return model.to(WEIGHT_DTYPES.get(recipe.trainer.precision, torch.float32)).train()
