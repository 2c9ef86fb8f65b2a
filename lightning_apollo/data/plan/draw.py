"""Samples drawn from each source in an epoch: whole passes and a remainder that changes with the epoch.

For packing alone, which knows every sample's cost: shares may be of LLM tokens, and hold in any stretch of the epoch. Runs
without an index follow order.py. What runs have drawn is recorded by both, so that neither can take the other's numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.plan.config import PlanError
from lightning_apollo.data.plan.costs import SampleCosts

UNITS = ("passes", "samples", "tokens")


def draw_epoch(costs: SampleCosts, weights: Mapping[str, float], unit: str, seed: int, epoch: int) -> NDArray[np.int32]:
    """(D,) samples of an epoch in order; one that is drawn twice is there twice.

    weights: of each source, in passes over it, or as its share of the epoch's samples or LLM tokens (of any sum); the epoch is then
    as long as one pass over those sources. Without weights, every source once. A fraction of a pass is drawn without replacement,
    anew in each epoch. Any long stretch of the result has the shares of the whole.
    """
    drawn, keys = [], []
    for name, passes in passes_of_sources(costs, weights, unit).items():
        generator = numpy_generator(seed, epoch, f"draw {name}")
        rows = np.asarray(costs.source_range(name), dtype=np.int32)
        *whole, rest = (generator.permutation(rows) for _ in range(math.floor(passes) + 1))
        ends = np.cumsum(_amounts(costs, rest, unit))
        samples = np.concatenate([*whole, rest[: _nearest(ends, (passes - math.floor(passes)) * int(ends[-1]))]])
        if len(samples):
            amount = _amounts(costs, samples, unit)
            drawn.append(samples)
            keys.append((np.cumsum(amount) - generator.random(len(amount)) * amount) / int(amount.sum()))
    if not drawn:
        raise PlanError("an epoch draws no sample: raise the weights")
    return np.concatenate(drawn)[np.argsort(np.concatenate(keys), kind="stable")]


def passes_of_sources(costs: SampleCosts, weights: Mapping[str, float], unit: str) -> dict[str, float]:
    """Passes over each source that an epoch takes any sample from."""
    if not weights:
        weights, unit = {name: 1.0 for name in costs.source_names if costs.source_range(name)}, "passes"
    unknown = [name for name in weights if name not in costs.source_names]
    if unknown:
        raise PlanError(
            f"weights names {', '.join(unknown)}; the index has {', '.join(costs.source_names) or 'no source'}"
        )
    wrong = [name for name, weight in weights.items() if not 0.0 <= weight < math.inf]
    if wrong:
        raise PlanError(f"weights.{wrong[0]}: {weights[wrong[0]]:g} is not a weight; give 0 or more")
    chosen = {name: weight for name, weight in weights.items() if weight > 0.0}
    empty = [name for name in chosen if not costs.source_range(name)]
    if empty or not chosen:
        reason = f"source {empty[0]} has no samples" if empty else "no source has a weight above 0"
        raise PlanError(f"weights: {reason}, so nothing can be drawn")
    if unit == "passes":
        return chosen
    amounts = {name: int(_amounts(costs, np.asarray(costs.source_range(name)), unit).sum()) for name in chosen}
    epoch = sum(amounts.values()) / math.fsum(chosen.values())
    return {name: weight * epoch / amounts[name] for name, weight in chosen.items()}


def realised_shares(costs: SampleCosts, samples: NDArray[np.int32], unit: str) -> dict[str, float]:
    """Share of each source in the LLM tokens of some samples or, for the other units, in their number."""
    amounts = np.bincount(
        costs.source[samples], weights=_amounts(costs, samples, unit), minlength=len(costs.source_names)
    )
    return {name: float(share) for name, share in zip(costs.source_names, amounts / amounts.sum(), strict=True)}


def numpy_generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose in one epoch, the same in every process."""
    return np.random.default_rng(int.from_bytes(seed_bytes(seed, epoch, purpose), "big"))


def seed_bytes(seed: int, epoch: int, purpose: str) -> bytes:
    """Seed of one purpose's random numbers in one epoch."""
    return hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()


def _amounts(costs: SampleCosts, samples: NDArray[np.int32], unit: str) -> NDArray[np.int64]:
    return costs.llm_tokens[samples].astype(np.int64) if unit == "tokens" else np.ones(len(samples), dtype=np.int64)


def _nearest(ends: NDArray[np.int64], wanted: float) -> int:
    """Number of first samples that come nearest to the wanted amount; `ends`: their running sum."""
    before = int(np.searchsorted(ends, wanted))
    if before == len(ends):
        return before
    start = int(ends[before - 1]) if before else 0
    return before + (int(ends[before]) - wanted <= wanted - start and wanted > 0.0)
