"""The plan of an epoch: which samples make up which micro-batch, before any pixel is read.

A pure function of (costs, config, epoch), the same bytes in every process: draw from the sources, pack under the limits, deal.
As in `order.py`, a position is the index of a micro-batch over all ranks, and position k goes to rank k mod world size. The plan
does not depend on the number of ranks; so (epoch, position) is all that a run must remember to resume, on as many ranks as it then
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.plan.balance import Imbalance, balanced_order, imbalance
from lightning_apollo.data.plan.config import CostConfig, PlanError
from lightning_apollo.data.plan.costs import SampleCosts, costs_of_samples, whole_costs
from lightning_apollo.data.plan.draw import UNITS, draw_epoch, numpy_generator, passes_of_sources, realised_shares
from lightning_apollo.data.plan.packing import pack


@dataclass(frozen=True)
class PlanConfig:
    max_llm_tokens: int  # of a micro-batch
    max_patches: int  # of a micro-batch
    weights: Mapping[str, float] = field(default_factory=dict)  # of sources; empty: each once
    unit: str = "passes"  # of weights. "passes" over a source · "samples", "tokens": a share of the epoch's
    seed: int = 0
    step_size: int = 1  # micro-batches of an optimizer step, over all ranks
    window: int = 4096  # samples packed together
    target_fill: float = (
        0.99  # share of a limit that packing aims at; nearer to 1, more of the last samples find no room
    )
    group_size: int = 1024  # micro-batches of similar cost side by side: as many as ranks, or more
    cost: CostConfig = field(default_factory=CostConfig)

    def __post_init__(self) -> None:
        for name in ("max_llm_tokens", "max_patches", "step_size", "window", "group_size"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not 0.0 < self.target_fill <= 1.0:
            raise PlanError(f"target_fill is {self.target_fill:g}: give a share above 0, at most 1")
        if self.unit not in UNITS:
            raise PlanError(f'unit is "{self.unit}": choose {", ".join(UNITS)}')


@dataclass(frozen=True)
class PlanSummary:
    """Statistics of a plan over the micro-batches that are dealt."""

    num_samples: int  # a sample drawn twice counts twice
    num_micro_batches: int
    num_steps: int
    dropped_samples: int  # in micro-batches behind the last whole step
    fill: float  # used LLM tokens over the limit
    patch_fill: float  # used patches over the limit
    imbalance: Imbalance
    shares: dict[str, float]  # of each source, in the unit of the weights; of samples for "passes"


@dataclass(frozen=True, eq=False)
class Plan:
    """K micro-batches, of which whole optimizer steps are dealt."""

    epoch: int
    config: PlanConfig
    offsets: NDArray[np.int32]  # (K+1,) leading 0
    samples: NDArray[np.int32]  # (D,) samples of micro-batch k: samples[offsets[k] : offsets[k + 1]]

    def __len__(self) -> int:
        """Micro-batches that are dealt, over all ranks: whole optimizer steps."""
        return (len(self.offsets) - 1) // self.config.step_size * self.config.step_size

    def micro_batch(self, position: int) -> NDArray[np.int32]:
        """The samples at a position of the epoch. IndexError where there is none."""
        if not 0 <= position < len(self.offsets) - 1:
            raise IndexError(f"position {position} of {len(self.offsets) - 1} micro-batches")
        return self.samples[self.offsets[position] : self.offsets[position + 1]]

    def summary(self, costs: SampleCosts, world_size: int = 1) -> PlanSummary:
        """Fill, shares and the balance of that many ranks, of what is dealt; costs: those that the plan was made of.

        ValueError where the ranks do not divide a step.
        """
        if self.config.step_size % world_size:
            raise ValueError(f"{world_size} ranks do not divide a step of {self.config.step_size} micro-batches")
        last = int(self.offsets[len(self)])
        dealt = self.samples[:last]
        cost = np.add.reduceat(costs_of_samples(costs, self.config.cost)[dealt], self.offsets[: len(self)])
        return PlanSummary(
            num_samples=len(dealt),
            num_micro_batches=len(self),
            num_steps=len(self) // self.config.step_size,
            dropped_samples=len(self.samples) - last,
            fill=int(costs.llm_tokens[dealt].sum(dtype=np.int64)) / (len(self) * self.config.max_llm_tokens),
            patch_fill=int(costs.patches[dealt].sum(dtype=np.int64)) / (len(self) * self.config.max_patches),
            imbalance=imbalance(cost, world_size, self.config.step_size // world_size),
            shares=realised_shares(costs, dealt, self.config.unit),
        )


def make_plan(costs: SampleCosts, config: PlanConfig, epoch: int) -> Plan:
    """The plan of an epoch. PlanError where the mixture, a sample or the size of a step does not allow one."""
    _require_room(costs, config)
    drawn = draw_epoch(costs, config.weights, config.unit, config.seed, epoch)
    cost = whole_costs(costs_of_samples(costs, config.cost))[drawn]
    jitter = numpy_generator(config.seed, epoch, "pack").uniform(0.9, 1.1, len(cost))
    packed = pack(
        sizes=(costs.llm_tokens[drawn], costs.patches[drawn]),
        limits=(config.max_llm_tokens, config.max_patches),
        cost=cost,
        priority=(cost * jitter).astype(np.int64),  # else samples of one window would meet again in every epoch
        window=config.window,
        target_fill=config.target_fill,
    )
    num_micro_batches = len(packed.offsets) - 1
    if num_micro_batches < config.step_size:
        raise PlanError(
            f"an epoch packs into {num_micro_batches} micro-batches, fewer than the {config.step_size} of one optimizer "
            "step: lower micro_batches or raise the weights"
        )
    sums = np.add.reduceat(cost[packed.members], packed.offsets[:-1])
    order = balanced_order(sums, config.group_size, numpy_generator(config.seed, epoch, "deal"))
    lengths = np.diff(packed.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    members = np.repeat(packed.offsets[order] - offsets[:-1], lengths) + np.arange(len(drawn))
    return Plan(epoch, config, offsets.astype(np.int32), drawn[packed.members[members]])


def _require_room(costs: SampleCosts, config: PlanConfig) -> None:
    """Raise PlanError if a sample that may be drawn is over a limit by itself, and name the first."""
    chosen = np.zeros(len(costs), dtype=bool)
    for name in passes_of_sources(costs, config.weights, config.unit):
        rows = costs.source_range(name)
        chosen[rows.start : rows.stop] = True
    too_large = np.flatnonzero(
        chosen & ((costs.llm_tokens > config.max_llm_tokens) | (costs.patches > config.max_patches))
    )
    if len(too_large):
        sample = too_large[0]
        raise PlanError(
            f"{costs.describe(sample)}: {costs.llm_tokens[sample]} LLM tokens (max_llm_tokens {config.max_llm_tokens}), "
            f"{costs.patches[sample]} patches (max_patches {config.max_patches}); {len(too_large)} such samples in all: "
            "raise the limit, lower the token budget, or leave them out"
        )
