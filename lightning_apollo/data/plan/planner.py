"""Micro-batches of an epoch: a fixed number of samples each, or packed by cost.

Both are pure functions of the data, the seed and the epoch, the same on every rank. A position in an epoch is the index of a
micro-batch over all ranks (order.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.epoch import Plan, PlanConfig, make_plan
from lightning_apollo.data.plan.order import epoch_order, epoch_size, micro_batches, num_micro_batches


class Planner(Protocol):
    """Say what an epoch is made of. Sources are numbered in the order in which the dataset has them."""

    def num_micro_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch over all ranks: those of its whole optimizer steps."""
        ...

    def request(self, epoch: int, position: int) -> MicroBatchRequest:
        """Request to a loader process at a position."""
        ...

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """(D, 2): source and row of each sample that an epoch draws, in order, also those behind its last whole step."""
        ...

    def num_samples(self, epoch: int, num_micro_batches: int) -> int:
        """Number of them in the first micro-batches of the epoch."""
        ...


@dataclass(frozen=True, eq=False)
class CountedPlanner:
    """Micro-batches of equally many samples. The samples behind the last whole step are dropped, others in every epoch."""

    source_sizes: Mapping[str, int]  # rows of each source
    mixture: Mapping[str, float]  # source -> passes over it in an epoch
    micro_batch_size: int  # samples
    global_batch_size: int  # samples of an optimizer step, over all ranks
    seed: int

    def num_micro_batches(self, epoch: int) -> int:
        size = epoch_size(self.source_sizes, self.mixture)
        return num_micro_batches(size, self.micro_batch_size, self.global_batch_size)

    def request(self, epoch: int, position: int) -> MicroBatchRequest:
        rows = [(source, row) for source, row in _counted(self, epoch)[position].tolist()]
        return MicroBatchRequest(epoch, position * self.micro_batch_size, rows)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(self.source_sizes, self.mixture, self.seed, epoch).numpy()

    def num_samples(self, epoch: int, num_micro_batches: int) -> int:
        return num_micro_batches * self.micro_batch_size


@dataclass(frozen=True, eq=False)
class PackedPlanner:
    """Micro-batches under limits of LLM tokens and patches, of about the same cost (epoch.py)."""

    costs: SampleCosts
    rows_of_sources: NDArray[np.int32]  # (E,) row of each sample in its source
    sources: Sequence[
        int
    ]  # number in the dataset of each of costs.source_names; -1: not in it, and so without a weight
    config: PlanConfig

    def num_micro_batches(self, epoch: int) -> int:
        return len(_packed(self, epoch))

    def request(self, epoch: int, position: int) -> MicroBatchRequest:
        plan = _packed(self, epoch)
        samples = plan.micro_batch(position)
        sources = [self.sources[number] for number in self.costs.source[samples].tolist()]
        rows = list(zip(sources, self.rows_of_sources[samples].tolist(), strict=True))
        return MicroBatchRequest(epoch, int(plan.offsets[position]), rows)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        samples = _packed(self, epoch).samples
        sources = np.asarray(self.sources, np.int64)[self.costs.source[samples]]
        return np.stack([sources, self.rows_of_sources[samples].astype(np.int64)], axis=1)

    def num_samples(self, epoch: int, num_micro_batches: int) -> int:
        return int(_packed(self, epoch).offsets[num_micro_batches])


# Two epochs at most are in hand at a time: loader processes are asked ahead, over the end of the one that trains


@lru_cache(maxsize=2)
def _counted(planner: CountedPlanner, epoch: int) -> NDArray[np.int64]:
    """(K, micro_batch_size, 2): source and row of every sample of an epoch."""
    order = epoch_order(planner.source_sizes, planner.mixture, planner.seed, epoch)
    return micro_batches(order, planner.micro_batch_size, planner.global_batch_size).numpy()


@lru_cache(maxsize=2)
def _packed(planner: PackedPlanner, epoch: int) -> Plan:
    return make_plan(planner.costs, planner.config, epoch)


class MicroBatchRequest(NamedTuple):
    """Request to a loader process."""

    epoch: int
    first_position: int  # number of the first sample in the epoch's order
    rows: list[tuple[int, int]]  # index of the source and row in it
