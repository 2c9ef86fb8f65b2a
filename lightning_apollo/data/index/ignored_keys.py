"""Keys of rows that data.unknown_keys=ignore passes over, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.source import Source


@dataclass(frozen=True)
class IgnoredKey:
    """A key of the rows of one source."""

    source: str
    key: str  # "tools", "name in a turn"
    num_rows: int
    example: str  # manifest and row, from 1


def ignored_keys_of_index(index: Index) -> list[IgnoredKey]:
    """The ignored keys of every source of an index, the most frequent first."""
    return _count(_rows_of_index(index))


def ignored_keys_of_sources(sources: Sequence[Source]) -> list[IgnoredKey]:
    """The same without an index: all rows are read, no media file is opened."""
    return _count(_rows_of_sources(sources))


def ignored_keys_line(ignored: Sequence[IgnoredKey]) -> str:
    """The keys of all sources with their rows; empty where nothing was ignored."""
    rows: dict[str, int] = {}
    for one in ignored:
        rows[one.key] = rows.get(one.key, 0) + one.num_rows
    keys = ", ".join(f"{key!r:.60} ({number:,} rows)" for key, number in rows.items())
    return f"data.unknown_keys=ignore passes over {keys}" if rows else ""


def _count(rows: Iterable[tuple[str, str, Sequence[str]]]) -> list[IgnoredKey]:
    """Rows are given as source, place and ignored keys."""
    counted: dict[tuple[str, str], IgnoredKey] = {}
    for source, place, keys in rows:
        for key in dict.fromkeys(keys):
            before = counted.get((source, key), IgnoredKey(source, key, 0, place))
            counted[source, key] = replace(before, num_rows=before.num_rows + 1)
    return sorted(counted.values(), key=lambda one: -one.num_rows)


def _rows_of_index(index: Index) -> Iterator[tuple[str, str, Sequence[str]]]:
    lists = index.samples.column("ignored_keys").combine_chunks()
    for number in np.flatnonzero(np.diff(lists.offsets.to_numpy())).tolist():
        sample = index[number]
        yield sample.source, f"{sample.manifest}, row {sample.row + 1}", sample.ignored_keys


def _rows_of_sources(sources: Sequence[Source]) -> Iterator[tuple[str, str, Sequence[str]]]:
    for source in sources:
        for manifest in source.manifests:
            for row in range(len(manifest)):
                try:
                    ignored = manifest[row].ignored_keys
                except ManifestError:  # counted and listed where the row is drawn
                    continue
                yield source.name, f"{manifest.address}, row {row + 1}", ignored
