"""Dealing order of micro-batches: neighbours of similar cost, so that ranks do not wait for each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NARROWER = 8  # a level of groups has groups of an eighth of the level above
_ALIKE = 0.03  # of the median cost


class Imbalance(NamedTuple):
    """The most expensive rank over the mean rank: a step takes as long as its most expensive rank."""

    mean: float  # time of all steps together over what equal ranks would take
    worst: float  # of any one step


def balanced_order(cost: NDArray[np.int64], group_size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(K,) order of micro-batches in which every group of `group_size` neighbours costs about the same, in random order.

    cost: (K,). Sorted by cost they are cut into groups; groups are shuffled, then their eighths, the eighths of those, and in
    the smallest the micro-batches. 16 of them, were groups of 4 cut in halves:

        by cost  0  1  2  3   4  5  6  7   8  9 10 11  12 13 14 15
        dealt    9  8 10 11   1  0  2  3  14 15 12 13   6  7  5  4

    Any number of ranks that divides a group is thus balanced, and the order does not depend on it. A random rest, smaller than a
    group, comes last, in smaller groups. Micro-batches within 3 % of the median count as equal and stay near where they were, so
    that sorting does not sort what is in them.
    """
    waiting = np.lexsort((generator.random(len(cost)), np.arange(len(cost)) // group_size))
    parts = [waiting[:0]]
    while len(waiting):
        is_rest = np.zeros(len(waiting), dtype=bool)
        is_rest[generator.permutation(len(waiting))[: len(waiting) % group_size]] = True
        grouped, waiting = waiting[~is_rest], waiting[is_rest]
        parts.append(grouped[_order_of_groups(_cost_class(cost[grouped]), group_size, generator)])
        group_size = max(1, group_size // _NARROWER)
    return np.concatenate(parts)


def imbalance(cost: NDArray[np.float64], world_size: int, accumulate: int = 1) -> Imbalance:
    """Imbalance of ranks; cost: (K,) of micro-batches in order, dealt to ranks in turn.

    Micro-batches behind the last whole step do not count.
    """
    step = world_size * accumulate
    ranks = cost[: len(cost) // step * step].reshape(-1, accumulate, world_size).sum(axis=1)
    highest, mean = ranks.max(axis=1), ranks.mean(axis=1)
    return Imbalance(float(highest.sum() / mean.sum()), float((highest / mean).max()))


def _order_of_groups(cost: NDArray[np.int64], group_size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(K,) order of whole groups: sorted, cut at every level of size, chunks of every level shuffled in the one above."""
    sizes = [group_size]
    while sizes[-1] > _NARROWER:
        sizes.append(sizes[-1] // _NARROWER)
    keys = [_key_of_chunks(len(cost), size, generator) for size in (1, *reversed(sizes))]
    return np.argsort(cost, kind="stable")[np.lexsort(keys)]  # the last key comes first


def _key_of_chunks(length: int, chunk: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(length,) a random number for each chunk of neighbours."""
    return np.repeat(generator.random(-(-length // chunk)), chunk)[:length]


def _cost_class(cost: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K,) distance from the median in whole steps of 3 %, towards it: 0 for all that count as equal to it."""
    median = max(1, int(np.median(cost))) if len(cost) else 1
    return np.trunc((cost - median) / (_ALIKE * median)).astype(np.int64)
