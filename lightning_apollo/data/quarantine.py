"""Quarantine of unreadable samples: counts per source and kind, a list in a file and a limit that ends the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from lightning_apollo.data.dataset import BadSample, PreparedBatch
from lightning_apollo.errors import FAULTS, UserError
from lightning_apollo.files import SideFile
from lightning_apollo.structures import MediaError, PackedBatch

MIN_BAD_SAMPLES = 10  # fewer never end a run: the share of a few means nothing


class TooManyBadSamples(UserError, RuntimeError):
    """A source whose share of bad samples is above the limit."""


class Quarantine:
    """Keep the account of one rank and append to `path`, one JSON object for each bad sample."""

    def __init__(self, path: Path, max_share: float) -> None:
        self.path = path
        self.max_share = max_share
        self._file = SideFile(path)
        self.num_tried: Counter[str] = Counter()  # samples of each source, bad ones included
        self.num_bad: Counter[str] = Counter()
        self.num_faults: dict[str, Counter[str]] = {}  # of the stores of each source: kind -> bad samples

    def admit(self, prepared: PreparedBatch) -> PackedBatch:
        """The batch, after its bad samples are counted and listed.

        Raises the error of the sample that no other could replace, or TooManyBadSamples above the share of bad samples.
        """
        self._count(prepared)
        if prepared.bad_samples:
            self._list(prepared.bad_samples)
        if prepared.batch is None:
            raise prepared.bad_samples[-1].error
        for source, num_bad in self.num_bad.items():
            num_tried = self.num_tried[source]
            if num_bad >= MIN_BAD_SAMPLES and num_bad > self.max_share * num_tried:
                bad = f"{num_bad} of {num_tried} samples are bad{self._faults(source)}"
                raise TooManyBadSamples(
                    f"source {source}: {bad}, more than data.max_error_share {self.max_share:g} allows; {self.path} lists "
                    f"them, the last: {prepared.bad_samples[-1].error}"
                )
        return prepared.batch

    def _faults(self, source: str) -> str:
        """Words in brackets that count its bad samples by the fault of their store; empty where no store is to blame."""
        found = self.num_faults.get(source, {})
        return f" (storage: {', '.join(f'{kind} {found[kind]}' for kind in FAULTS if kind in found)})" if found else ""

    def _count(self, prepared: PreparedBatch) -> None:
        for sample in prepared.bad_samples:
            if isinstance(sample.error, MediaError) and sample.error.kind:
                self.num_faults.setdefault(sample.source, Counter())[sample.error.kind] += 1
        bad = Counter(sample.source for sample in prepared.bad_samples)
        self.num_bad += bad
        self.num_tried += bad
        if prepared.batch is not None:
            self.num_tried += Counter(prepared.batch.sources)

    def _list(self, bad_samples: tuple[BadSample, ...]) -> None:
        self._file.append("".join(json.dumps(_as_row(sample)) + "\n" for sample in bad_samples))


def _as_row(sample: BadSample) -> dict[str, object]:
    error = sample.error
    is_media = isinstance(error, MediaError)
    path, reason = (error.path, error.reason) if is_media else ("", str(error))
    return {
        "path": path,
        "reason": reason,
        **({"storage": error.kind} if is_media and error.kind else {}),
        "source": sample.source,
        "sample_id": sample.sample_id,
        "epoch": sample.epoch,
        "position": sample.position,
    }
