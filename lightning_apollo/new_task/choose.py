"""Settings chosen for the data, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lightning_apollo.data.index.token_counts import ByteTokenizer, TextCounter, TokenCounts, tokens
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.new_task.survey import Survey
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.build import preprocessing_of

TEMPLATES = ("connector", "lora", "full", "video", "grounding")

_FEW_ROWS = 200  # too few for adapters in every layer: they would be learnt by heart before they are understood
_QUANTILE = 0.95  # of clips and rows that are shown whole; the longest few would set the cost of all
_FEWEST_FRAMES = 8  # of most clips, below which a change in a short clip is missed
_HIGHEST_FPS = 4.0
_BOUNDLESS = {"token_budget": 2**40, "max_length": 2**41}  # in which every row is shown at full size
_FEWEST_STEPS = 100  # of the optimizer, below which a warm-up and a cosine make no sense ...
_MOST_EPOCHS = 10  # ... but no row is shown more often than this


@dataclass(frozen=True)
class Chosen:
    """A setting and why it was chosen, in words for a comment."""

    sampling: SamplingConfig
    streams: str  # as in DataConfig
    budget: BudgetConfig
    epochs: int
    global_batch_size: int
    micro_batch_size: int
    num_steps: int
    num_unfit: int  # rows that can be read and do not fit the budget
    reasons: dict[str, str]  # sampling, token_budget, max_length, steps -> why


def choose_template(survey: Survey) -> tuple[str, str]:
    """The template that fits the rows, and why."""
    if survey.share_of_spans >= 0.5:
        return "grounding", f"{survey.share_of_spans:.0%} of the answers about videos are time spans"
    if survey.num_usable < _FEW_ROWS:
        return "connector", f"{survey.num_usable} rows are few: the connector learns, both towers stay as they are"
    return "lora", f"{survey.num_usable:,} rows are enough for adapters in both towers"


def choose_settings(survey: Survey, recipe: Recipe, stage: str, text: TextCounter | None) -> Chosen:
    """The settings for a stage of the recipe, whose own settings are the limits."""
    config, reasons = recipe.stages[stage], {}
    sampling, reasons["sampling"] = _sampling(survey, recipe.data.sampling)
    limits = recipe.data.budget
    needed = _costs(survey, recipe, stage, sampling, replace(limits, **_BOUNDLESS), text)
    budget = _budget(needed, limits, reasons)
    fitting = _costs(survey, recipe, stage, sampling, budget, text)
    if text is None:
        reasons["max_length"] += "; an upper bound, as the tokenizer is not on this machine"
    global_batch_size = _power_of_two(min(config.global_batch_size, max(1, survey.num_usable // _FEWEST_FRAMES)))
    steps_an_epoch = max(1, survey.num_usable // global_batch_size)
    epochs = min(_MOST_EPOCHS, max(config.epochs, math.ceil(_FEWEST_STEPS / steps_an_epoch)))
    room = config.micro_batch_size * limits.max_length  # tokens that the template's micro-batch may have
    num_steps = epochs * steps_an_epoch
    reasons["steps"] = f"{survey.num_usable:,} rows in batches of {global_batch_size}: {num_steps:,} steps"
    return Chosen(
        sampling=sampling,
        streams=recipe.data.streams,
        budget=budget,
        epochs=epochs,
        global_batch_size=global_batch_size,
        micro_batch_size=min(global_batch_size, _power_of_two(max(1, room // budget.max_length))),
        num_steps=num_steps,
        num_unfit=survey.num_usable - int(fitting.is_usable.sum()),
        reasons=reasons,
    )


def _sampling(survey: Survey, limits: SamplingConfig) -> tuple[SamplingConfig, str]:
    """As many frames as most clips have moments; a higher rate where that is too few to see a change."""
    if not len(survey.shown_seconds):
        return limits, "no videos"
    seconds = _most(survey.shown_seconds)
    if limits.kind != "fps":
        return limits, "of the template"
    fps = limits.fps
    while seconds * fps < _FEWEST_FRAMES and 2 * fps <= _HIGHEST_FPS:
        fps *= 2
    wanted = max(1, math.ceil(seconds * fps))
    reason = f"{_QUANTILE:.0%} of the clips last up to {seconds:.1f} s"
    if wanted > limits.max_frames:
        reason += f", {wanted} frames; {limits.max_frames} are the most that the model is used to"
    return replace(limits, fps=fps, max_frames=min(wanted, limits.max_frames)), reason


def _costs(
    survey: Survey,
    recipe: Recipe,
    stage: str,
    sampling: SamplingConfig,
    budget: BudgetConfig,
    text: TextCounter | None,
) -> TokenCounts:
    """Costs of every row inside a budget."""
    settings = preprocessing_of(recipe, stage, ByteTokenizer() if text is None else text.tokenizer)
    return tokens(survey.index, replace(settings, sampling=sampling, budget=budget), text)


def _budget(needed: TokenCounts, limits: BudgetConfig, reasons: dict[str, str]) -> BudgetConfig:
    """No more visual tokens than most rows need at full size, and room for all their text beside them."""
    wanted = _most(needed.visual_tokens[needed.is_usable])
    least = limits.min_tokens * max(1, int(needed.frames.max()))  # no frame has to go
    budget = min(limits.token_budget, _rounded_up(max(wanted, least), 64))
    reasons["token_budget"] = f"{_QUANTILE:.0%} of the rows need {wanted:,.0f} at full size"
    if wanted > budget:
        reasons["token_budget"] += "; the model is used to no more, so media are made smaller"
    text = int((needed.llm_tokens - needed.visual_tokens).max())
    max_length = min(limits.max_length, _rounded_up(budget + text + 1, 256))
    reasons["max_length"] = f"and up to {text:,} tokens of text and time stamps"
    return replace(limits, token_budget=budget, max_length=max_length)


def _most(values: np.ndarray) -> float:
    """The value that most others are not above."""
    return float(np.quantile(values, _QUANTILE, method="higher"))


def _rounded_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def _power_of_two(number: int) -> int:
    """The largest that is not above the number."""
    return 2 ** (number.bit_length() - 1)
