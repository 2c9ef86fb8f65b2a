"""Learning rate of each optimizer step: a cosine that starts with a linear warm-up."""

from __future__ import annotations

import math

from lightning_apollo.training.config import OptimizerConfig


def cosine_with_warmup(step: int, num_steps: int, num_warmup_steps: int) -> float:
    """The share of the peak rate at optimizer step `step` (from 0): linear from 0, then half a cosine down to 0."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def warmup_steps(config: OptimizerConfig, num_steps: int) -> int:
    """Optimizer steps of the warm-up."""
    return math.ceil(config.warmup_ratio * num_steps)


def check_rates(config: OptimizerConfig, num_steps: int) -> None:
    """Raise ValueError where the schedule gives every one of `num_steps` optimizer steps the rate 0."""
    warmup = warmup_steps(config, num_steps)
    if not any(cosine_with_warmup(step, num_steps, warmup) > 0.0 for step in range(num_steps)):
        steps = "the only step" if num_steps == 1 else f"every one of {num_steps} steps"
        raise ValueError(
            f"{steps} would have rate 0 and train nothing, with optimizer.warmup_ratio {config.warmup_ratio:g}: set "
            "optimizer.warmup_ratio=0, or let the stage take more steps"
        )
