"""Rows of several sources as packed micro-batches, with a stated policy for samples that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset

from lightning_apollo.data.collate import collate
from lightning_apollo.data.manifest import Manifest, ManifestError, read_manifest
from lightning_apollo.data.order import refill_rows
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.rows import Conversation
from lightning_apollo.structures import SAMPLE_MODALITIES, MediaError, PackedBatch, Sample

MAX_REFILLS = 16  # bad samples in a row, all of one source, that one place of a batch may cost


@dataclass(frozen=True)
class SourceConfig:
    """A named source of conversations, the unit of a mixture."""

    manifests: list[str]  # JSON or JSONL files, relative to the working directory or else to `root`
    root: str = "."  # the folder that media paths start from and may not leave
    modality: str | None = None  # text | image | multi_image | video: what its rows show; a stage's `shares` needs it

    def __post_init__(self) -> None:
        if self.modality is not None and self.modality not in SAMPLE_MODALITIES:
            raise ValueError(f"modality is one of {', '.join(SAMPLE_MODALITIES)}, not {self.modality!r}")
        if not self.manifests:
            raise ValueError(f"a source needs at least one manifest (root {self.root})")

    def manifest_paths(self) -> list[Path]:
        """The manifests as files: as named where that exists, otherwise in `root`."""
        return [Path(name) if Path(name).is_file() else Path(self.root) / name for name in self.manifests]


@dataclass(frozen=True)
class Source:
    """The rows of a source: those of its manifests, one after the other."""

    name: str
    root: Path
    manifests: tuple[Manifest, ...]

    def __len__(self) -> int:
        return sum(len(manifest) for manifest in self.manifests)

    def __getitem__(self, row: int) -> Conversation:
        for manifest in self.manifests:
            if row < len(manifest):
                return manifest[row]
            row -= len(manifest)
        raise IndexError(f"source {self.name} has no such row")


class MicroBatchRequest(NamedTuple):
    """What a loader process is asked for."""

    epoch: int
    first_position: int  # number of the first sample in the epoch's order
    rows: list[tuple[int, int]]  # index of the source and row in it


class BadSample(NamedTuple):
    """A sample that could not be read or used; `error` is a MediaError or a ValueError."""

    source: str
    sample_id: str
    epoch: int
    position: int  # number of the sample in the epoch's order
    error: Exception


class PreparedBatch(NamedTuple):
    """A micro-batch and the samples that were skipped on the way to it; without a batch, the last one ends the run."""

    batch: PackedBatch | None
    bad_samples: tuple[BadSample, ...]


def open_sources(configs: Mapping[str, SourceConfig], outside_root: Sequence[str]) -> list[Source]:
    """The sources of a recipe in its order, their manifests indexed."""
    return [
        Source(
            name,
            Path(config.root),
            tuple(read_manifest(path, name, Path(config.root), outside_root) for path in config.manifest_paths()),
        )
        for name, config in configs.items()
    ]


class ConversationDataset(Dataset[PreparedBatch]):
    """Prepares micro-batches. What it returns depends on the request and the files alone, not on calls before it.

    A bad sample's place is taken by the next row of a walk over its own source that (seed, epoch, position) fix, so
    that the mixture stays as it is; with `skips_bad` off, the first bad sample is returned without a batch.
    """

    def __init__(self, sources: Sequence[Source], preparer: Preparer, seed: int, skips_bad: bool) -> None:
        self.sources = sources
        self.preparer = preparer
        self.seed = seed
        self.skips_bad = skips_bad

    def __getitem__(self, request: MicroBatchRequest) -> PreparedBatch:
        samples: list[Sample] = []
        bad_samples: list[BadSample] = []
        for position, (source, row) in enumerate(request.rows, start=request.first_position):
            walk = refill_rows(len(self.sources[source]), self.seed, request.epoch, position)
            rows = [row, *(other for other in islice(walk, MAX_REFILLS) if other != row)] if self.skips_bad else [row]
            sample = self._first_good(source, rows, request.epoch, position, bad_samples)
            if sample is None:
                return PreparedBatch(None, tuple(bad_samples))
            samples.append(sample)
        return PreparedBatch(collate(samples, self.preparer.patch_size), tuple(bad_samples))

    def prepare(self, source: int, row: int, epoch: int = 0) -> Sample:
        """The sample of one row; raises what is wrong with it."""
        return self.preparer.sample(self.sources[source][row], self.sources[source].root, epoch)

    def _first_good(
        self, source: int, rows: Sequence[int], epoch: int, position: int, bad_samples: list[BadSample]
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
