"""Micro-batches of one rank in the order of the plan, from any position."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from lightning_apollo.data.dataset import ConversationDataset, PreparationCost, PreparedBatch
from lightning_apollo.data.media.fork_server import start_fork_server
from lightning_apollo.data.plan.order import rank_positions
from lightning_apollo.data.plan.planner import MicroBatchRequest, Planner
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.structures import PackedBatch

_NUM_IN_DIGEST = 64  # micro-batches


class Positions(Sampler[MicroBatchRequest]):
    """The requests of one rank through the epochs of a whole stage.

    Where a stage is, two numbers say, the same on every rank and for any number of them: the epoch, and the micro-batches that
    it has given over all ranks. Nothing before them is read again, or read at all.
    """

    def __init__(self, planner: Planner, num_micro_batches: int, rank: int, world_size: int) -> None:
        self.planner = planner
        self.num_micro_batches = num_micro_batches  # of the stage, over all ranks
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0
        self.num_given = 0  # micro-batches of the stage so far, over all ranks

    def __iter__(self) -> Iterator[MicroBatchRequest]:
        epoch, position, left = self.epoch, self.position, self.num_micro_batches - self.num_given
        while left > 0:
            end = min(self.planner.num_micro_batches(epoch), position + left)
            for own in rank_positions(end, position, self.rank, self.world_size):
                yield self.planner.request(epoch, own)
            left -= end - position
            epoch, position = epoch + 1, 0

    def __len__(self) -> int:
        """Micro-batches of one rank in the whole stage."""
        return self.num_micro_batches // self.world_size

    def digest(self) -> str:
        """A hash of what comes next over all ranks: the length of the epoch and the rows of its next micro-batches."""
        end = self.planner.num_micro_batches(self.epoch)
        shown = range(self.position, min(self.position + _NUM_IN_DIGEST, end))
        rows = [self.planner.request(self.epoch, position).rows for position in shown]
        return hashlib.sha256(repr((self.epoch, self.position, end, rows)).encode()).hexdigest()

    def advance(self) -> None:
        """Count one micro-batch on every rank; the last one of an epoch leads to the start of the next."""
        self.num_given += self.world_size
        self.position += self.world_size
        if self.position >= self.planner.num_micro_batches(self.epoch):
            self.epoch, self.position = self.epoch + 1, 0


class MicroBatchLoader:
    """Yield packed batches; its state is where the stage is, the same on every rank and for any number of them."""

    def __init__(
        self, dataset: ConversationDataset, positions: Positions, quarantine: Quarantine, num_workers: int
    ) -> None:
        self.dataset = dataset
        self.positions = positions
        self.quarantine = quarantine
        self.cost = PreparationCost(0.0, 0.0, 0)  # of all batches that this rank was given
        self._batches: Iterator[PreparedBatch] | None = None  # of the iteration at work, behind those below
        self._peeked: deque[PreparedBatch] = deque()
        self._loader: DataLoader[PreparedBatch] = DataLoader(
            dataset,
            batch_size=None,  # the dataset makes whole batches
            sampler=positions,
            num_workers=num_workers,
            # A fork of a process with threads (torch's, FFmpeg's, CUDA's) may inherit a lock that nobody opens again;
            # the fork server is a process without any.
            multiprocessing_context="forkserver" if num_workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else an iterator draws from the generator that dropout draws from
        )

    def __iter__(self) -> Iterator[PackedBatch]:
        try:
            while (prepared := self._next()) is not None:
                before, cost = self.cost, prepared.cost
                self.cost = PreparationCost(
                    before.seconds + cost.seconds,
                    before.reading_seconds + cost.reading_seconds,
                    before.num_reads + cost.num_reads,
                )
                batch = self.quarantine.admit(prepared)
                self.positions.advance()  # before the batch is used: a state saved during its step counts it
                yield batch
        finally:
            self._batches = None
            self._peeked.clear()

    def peek(self, num_batches: int) -> list[PackedBatch]:
        """The next batches, fewer at the end, which stay to be given and are not counted yet; all of them are in memory.

        Raises the error of a sample that no other could replace."""
        while len(self._peeked) < num_batches and (prepared := next(self._iterator(), None)) is not None:
            self._peeked.append(prepared)
        batches = islice(self._peeked, num_batches)
        return [self.quarantine.admit(one) if one.batch is None else one.batch for one in batches]

    def __len__(self) -> int:
        return len(self.positions)

    def state_dict(self) -> dict[str, Any]:
        at = self.positions
        return {"epoch": at.epoch, "position": at.position, "num_given": at.num_given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        at = self.positions
        at.epoch, at.position, at.num_given = state["epoch"], state["position"], state["num_given"]

    def _next(self) -> PreparedBatch | None:
        return self._peeked.popleft() if self._peeked else next(self._iterator(), None)

    def _iterator(self) -> Iterator[PreparedBatch]:
        if self._batches is None:
            if self._loader.num_workers:
                start_fork_server()
            self._batches = iter(self._loader)
        return self._batches
