"""Rows of several sources as packed micro-batches, with a stated policy for samples that cannot be read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from torch.utils.data import Dataset

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.collate import collate
from lightning_apollo.data.index.sample_costs import IndexedCosts
from lightning_apollo.data.media.reader import MeasuredReader
from lightning_apollo.data.plan.order import refill_rows
from lightning_apollo.data.plan.planner import MicroBatchRequest
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.source import Source
from lightning_apollo.structures import MediaError, PackedBatch, Sample

MAX_REFILLS = 16  # bad samples in a row, all of one source, that one place of a batch may cost


class BadSample(NamedTuple):
    """A sample that could not be read or used; `error` is a MediaError or a ValueError."""

    source: str
    sample_id: str
    epoch: int
    position: int  # number of the sample in the epoch's order
    error: Exception


class PreparationCost(NamedTuple):
    """Costs of batches where they were made: in loader processes, or in the training process."""

    seconds: float  # in all
    reading_seconds: float  # of these in probes and decodes
    num_reads: int  # times that frames were asked for


class PreparedBatch(NamedTuple):
    """A micro-batch and the samples that were skipped on the way to it; without a batch, the last one ends the run."""

    batch: PackedBatch | None
    bad_samples: tuple[BadSample, ...]
    cost: PreparationCost


class ConversationDataset(Dataset[PreparedBatch]):
    """Prepare micro-batches. What it returns depends on the request and the files alone, not on calls before it.

    A bad sample's place is taken by the next row of a walk over its own source that (seed, epoch, position) fix, so
    that the mixture stays as it is; with `costs`, by a row that takes no more room, so that the limits of a packed
    micro-batch hold; where there is none, by nothing. With `skips_bad` off, the first bad sample is returned without a
    batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        preparer: Preparer,
        seed: int,
        skips_bad: bool,
        costs: IndexedCosts | None = None,
    ) -> None:
        self.sources = sources
        self._reader = MeasuredReader(preparer.reader)
        self.preparer = replace(preparer, reader=self._reader)
        self.seed = seed
        self.skips_bad = skips_bad
        self.costs = costs

    def __getitem__(self, request: MicroBatchRequest) -> PreparedBatch:
        begin, reading = time.perf_counter(), self._reader.cost
        bad_samples: list[BadSample] = []
        samples = self._samples(request, bad_samples)
        batch = collate(samples, self.preparer.settings.patch_size) if samples else None
        read = self._reader.cost
        cost = PreparationCost(
            time.perf_counter() - begin, read.seconds - reading.seconds, read.num_reads - reading.num_reads
        )
        return PreparedBatch(batch, tuple(bad_samples), cost)

    def prepare(self, source: int, row: int, epoch: int = 0) -> Sample:
        """The sample of one row; raises what is wrong with it."""
        return self.preparer.sample(self.sources[source][row], self.sources[source].root, epoch)

    def _samples(self, request: MicroBatchRequest, bad_samples: list[BadSample]) -> list[Sample]:
        """The samples of a micro-batch; none where one has no other in its place, whose error is then the last."""
        samples: list[Sample] = []
        for position, (source, row) in enumerate(request.rows, start=request.first_position):
            rows = chain([row], self._refills(source, row, request.epoch, position) if self.skips_bad else ())
            sample = self._first_good(source, rows, request.epoch, position, bad_samples)
            if sample is not None:
                samples.append(sample)
            elif self.costs is None or not self.skips_bad or isinstance(bad_samples[-1].error, ManifestError):
                return []
        return samples

    def _refills(self, source: int, row: int, epoch: int, position: int) -> Iterator[int]:
        """Rows that may take the place of `row`; found only where it is bad."""
        walk = refill_rows(len(self.sources[source]), self.seed, epoch, position)
        others = (other for other in walk if other != row)
        if self.costs is not None:
            others = self.costs.no_dearer(self.sources[source].name, row, others)
        return islice(others, MAX_REFILLS)

    def _first_good(
        self, source: int, rows: Iterable[int], epoch: int, position: int, bad_samples: list[BadSample]
    ) -> Sample | None:
        """The first of the rows that can be read, or None. Errors are values here: a loader process cannot raise them
        into the training process as they are."""
        name = self.sources[source].name
        for row in rows:
            try:
                return self.prepare(source, row, epoch)
            except ManifestError as error:  # a mistake to correct, never to skip
                bad_samples.append(BadSample(name, f"row {row + 1}", epoch, position, error))
                return None
            except (MediaError, ValueError) as error:
                bad_samples.append(BadSample(name, self.sources[source][row].sample_id, epoch, position, error))
        return None
