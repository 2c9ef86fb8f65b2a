"""Batch sizes for an epoch that does not fill one optimizer step.

Nine samples under global_batch_size 32 and micro_batch_size 4:

    ranks   samples of a step   of a micro-batch   accumulated by each rank
    1       8                   4                  2
    2       8                   4                  1
    4       8                   2                  1
    10      an error: a rank would have none
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.draw import draw_epoch
from lightning_apollo.data.plan.epoch import PlanConfig, make_plan
from lightning_apollo.data.plan.order import TooFewSamples


def counted_sizes(
    num_samples: int, micro_batch_size: int, global_batch_size: int, world_size: int, stage: str
) -> tuple[int, int]:
    """The micro and the global batch size with which an epoch has at least one step: as they are, or as small as it is.

    TooFewSamples where a rank would have no sample.
    """
    if num_samples >= global_batch_size:
        return micro_batch_size, global_batch_size
    if num_samples < world_size:
        raise TooFewSamples(
            f"stage {stage}: an epoch has {num_samples} samples for {world_size} ranks: set trainer.devices=1, or raise "
            f"the passes in stages.{stage}.mixture"
        )
    micro = min(micro_batch_size, num_samples // world_size)
    return micro, num_samples // (micro * world_size) * micro * world_size


def packed_step(costs: SampleCosts, config: PlanConfig, world_size: int, stage: str) -> int:
    """The micro-batches of a step with which an epoch has at least one: as planned, or as few as the samples must fill.

    TooFewSamples where a rank would have no micro-batch.
    """
    drawn = draw_epoch(costs, config.weights, config.unit, config.seed, epoch=0)
    totals = (costs.llm_tokens[drawn].sum(dtype=np.int64), costs.patches[drawn].sum(dtype=np.int64))
    limits = (config.max_llm_tokens, config.max_patches)
    fewest = max(1, *(-(-int(total) // limit) for total, limit in zip(totals, limits, strict=True)))  # in any epoch
    if fewest >= config.step_size:
        return config.step_size
    if len(make_plan(costs, replace(config, step_size=1), epoch=0)) >= config.step_size:
        return config.step_size
    if fewest < world_size:
        raise TooFewSamples(
            f"stage {stage}: an epoch of {len(drawn)} samples may pack into {fewest} micro-batches, for {world_size} ranks: "
            f"set trainer.devices=1, or lower stages.{stage}.packing.max_llm_tokens and max_patches"
        )
    return fewest // world_size * world_size
