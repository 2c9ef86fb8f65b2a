"""Report broken rows per source."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.storage.address import title_of

# What differs between two rows with the same thing wrong: numbers, and what is quoted from the row
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot become a sample."""

    source: str
    manifest: str
    row: int  # from 1: the line of a .jsonl file
    path: str  # of the broken file; empty where the row itself is broken
    reason: str

    def __str__(self) -> str:
        return f"{self.path or f'{self.manifest}, row {self.row}'}: {self.reason}"


@dataclass(frozen=True)
class Fault:
    """Rows with the same thing wrong, whatever the numbers in it."""

    num_rows: int
    example: BrokenRow


@dataclass(frozen=True)
class SourceReport:
    """The broken rows of one source."""

    source: str
    num_rows: int
    num_broken: int
    faults: tuple[Fault, ...]  # the most frequent first

    @property
    def share(self) -> float:
        return self.num_broken / self.num_rows if self.num_rows else 0.0


def broken_rows(index: Index) -> Iterator[BrokenRow]:
    """Every broken row in the order of the index."""
    for number in np.flatnonzero(index.is_broken()).tolist():
        sample = index[number]
        path = "" if sample.error_media < 0 else title_of(index.media["path"][sample.error_media].as_py())
        yield BrokenRow(sample.source, sample.manifest, sample.row + 1, path, sample.error or "")


def scan(index: Index) -> list[SourceReport]:
    """A report of every source of the index, in its order."""
    faults: dict[str, Counter[str]] = {source: Counter() for source in index.sources}
    examples: dict[tuple[str, str], BrokenRow] = {}
    for row in broken_rows(index):
        reason = _PARTICULARS.sub("…", row.reason)
        faults[row.source][reason] += 1
        examples.setdefault((row.source, reason), row)
    num_rows = np.bincount(index.sample_column("source"), minlength=len(index.sources)).tolist()
    return [
        SourceReport(
            source,
            num_rows[place],
            faults[source].total(),
            tuple(Fault(n, examples[source, reason]) for reason, n in faults[source].most_common()),
        )
        for place, source in enumerate(index.sources)
    ]


def write_broken(index: Index, path: Path) -> None:
    """Write every broken row to a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("source", "manifest", "row", "path", "reason"))
        writer.writerows((row.source, row.manifest, row.row, row.path, row.reason) for row in broken_rows(index))


@dataclass(frozen=True)
class SourceSummary:
    """Contents of a source. Files that several of its samples show count once; broken ones are left out."""

    source: str
    num_samples: int
    num_broken: int
    num_images: int  # files
    num_videos: int
    video_hours: float
    text_bytes: int
    num_text_tokens: int | None  # None: no tokenizer was given when the index was made


def summarise(index: Index) -> list[SourceSummary]:
    """A summary of every source of the index, in its order."""
    sources, is_broken = index.sample_column("source"), index.is_broken()
    uses, offsets = index.media_uses()
    owners = np.repeat(sources, np.diff(offsets))  # the source of every use
    is_video = index.media_column("modality") == 1
    is_good = index.media.column("error").is_null().to_numpy()
    seconds = index.media_column("duration_seconds")
    summaries = []
    for place, source in enumerate(index.sources):
        mine = sources == place
        files = np.unique(uses.media[owners == place])
        files = files[is_good[files]]
        videos = files[is_video[files]]
        summaries.append(
            SourceSummary(
                source=source,
                num_samples=int(mine.sum()),
                num_broken=int((mine & is_broken).sum()),
                num_images=len(files) - len(videos),
                num_videos=len(videos),
                video_hours=float(seconds[videos].sum()) / 3600,
                text_bytes=int(index.sample_column("text_bytes")[mine].sum()),
                num_text_tokens=int(index.sample_column("num_text_tokens")[mine].sum())
                if index.text_identity
                else None,
            )
        )
    return summaries
