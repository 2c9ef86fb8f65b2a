"""Costs of the samples of an index in one stage, stored in memory-mapped files for planning.

INDEX/costs/HASH/  source.npy llm_tokens.npy patches.npy vision_squares.npy   one entry for each usable sample (SampleCosts)
                   rows.npy                                                   its row in its source
                   facts.json                                                 names of the sources, rows left out

HASH covers the index, the tokenizer and every setting that a cost depends on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter, TokenCounts, tokens
from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.files import write_folder_atomically
from lightning_apollo.progress import Progress

FORMAT_VERSION = 1
_CHUNK_ROWS = 8192  # counted by one process at a time
_MOST_CANDIDATES = 4096  # rows that are looked at for one that fits in the place of another


class IndexedCosts:
    """Costs of the usable samples, mapped: a process that is handed them maps the files itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        facts = json.loads((folder / "facts.json").read_text())
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        self.num_unusable: dict[str, int] = facts["num_unusable"]  # rows of each source that are broken or cannot fit
        self.rows: NDArray[np.int32] = columns.pop("rows")  # (E,) row of each sample in its source, rising in a source
        self.samples = SampleCosts(tuple(facts["sources"]), **columns)

    def __reduce__(self) -> tuple[type[IndexedCosts], tuple[Path]]:
        return IndexedCosts, (self.folder,)

    def digest(self) -> str:
        """A hash of all that epochs are planned from."""
        digest = hashlib.sha256(json.dumps(self.samples.source_names).encode())
        for name in _COLUMNS:
            column: np.ndarray = self.rows if name == "rows" else getattr(self.samples, name)
            digest.update(column.data)
        return digest.hexdigest()

    def no_dearer(self, source: str, row: int, candidates: Iterator[int]) -> Iterator[int]:
        """Those candidates, rows of the same source, that take no more room than `row` in LLM tokens and in patches."""
        of_source = self.samples.source_range(source)
        rows = self.rows[of_source.start : of_source.stop]

        def size(one: int) -> tuple[int, int] | None:
            place = int(np.searchsorted(rows, one))
            if place == len(rows) or rows[place] != one:
                return None  # not usable
            sample = of_source[place]
            return int(self.samples.llm_tokens[sample]), int(self.samples.patches[sample])

        room = size(row)
        for one in islice(candidates, _MOST_CANDIDATES):
            needed = size(one)
            if room is not None and needed is not None and needed[0] <= room[0] and needed[1] <= room[1]:
                yield one


_COLUMNS = ("source", "llm_tokens", "patches", "vision_squares", "rows")


def indexed_costs(
    index: Index, preparer: Preparer, text: TextCounter, jobs: int = 1, progress: Progress | None = None
) -> IndexedCosts:
    """The costs of an index's samples as `preparer` would prepare them; counted by `jobs` processes where no call has before.

    With 0 or 1, by this one.
    """
    folder = index.folder / "costs" / _digest(index, preparer, text)
    if not (folder / "facts.json").is_file():
        _write(folder, index, _count(index, preparer, text, jobs, progress or _no_progress))
    return IndexedCosts(folder)


@dataclass(frozen=True)
class _Job:
    """Arguments of `tokens`, in a form that can be sent to another process."""

    index: Index
    settings: Preprocessing
    text: TextCounter

    def counts(self, rows: range) -> TokenCounts:
        return tokens(self.index, self.settings, self.text, rows)


def _count(index: Index, preparer: Preparer, text: TextCounter, jobs: int, progress: Progress) -> TokenCounts:
    if preparer.visuals != "full":
        raise ValueError(
            f"data.visuals={preparer.visuals}: costs are those of whole videos; packing goes with full alone"
        )
    job = _Job(index, preparer.settings, text)
    chunks = [range(start, min(start + _CHUNK_ROWS, len(index))) for start in range(0, len(index), _CHUNK_ROWS)]
    done: list[TokenCounts] = []
    if jobs <= 1 or len(chunks) <= 1:
        for chunk in chunks:
            done.append(job.counts(chunk))
            progress(chunk.stop, len(index))
    else:
        with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=get_context("forkserver")) as pool:
            for chunk, counts in zip(chunks, pool.map(job.counts, chunks), strict=True):
                done.append(counts)
                progress(chunk.stop, len(index))
    return TokenCounts(
        *(np.concatenate(columns) for columns in zip(*(vars(one).values() for one in done), strict=True))
    )


def sample_costs(index: Index, counts: TokenCounts) -> tuple[SampleCosts, NDArray[np.int32]]:
    """The costs of the usable samples of an index, and (E,) the row of each in its source."""
    usable = np.flatnonzero(counts.is_usable & (counts.llm_tokens > 0))
    sources = index.sample_column("source").astype(np.int16)
    first_rows = np.searchsorted(sources, np.arange(len(index.sources)))  # of each source in the index
    costs = SampleCosts(
        source_names=index.sources,
        source=sources[usable],
        llm_tokens=counts.llm_tokens[usable].astype(np.int32),
        patches=counts.patches[usable].astype(np.int32),
        vision_squares=counts.vision_squares[usable],
    )
    return costs, (usable - first_rows[sources[usable]]).astype(np.int32)


def _write(folder: Path, index: Index, counts: TokenCounts) -> None:
    """All files or none: they appear under their name together."""
    costs, rows = sample_costs(index, counts)
    num_rows = np.bincount(index.sample_column("source"), minlength=len(index.sources))
    num_usable = np.bincount(costs.source, minlength=len(index.sources))
    lost = dict(zip(index.sources, (num_rows - num_usable).tolist(), strict=True))
    # Another process may be faster: both have the same content
    with suppress(FileExistsError), write_folder_atomically(folder) as partial:
        for name in _COLUMNS:
            np.save(partial / f"{name}.npy", rows if name == "rows" else getattr(costs, name))
        (partial / "facts.json").write_text(json.dumps({"sources": index.sources, "num_unusable": lost}))
        if not (folder / "facts.json").is_file():  # all that a folder without it can be is damaged
            shutil.rmtree(folder, ignore_errors=True)


def _digest(index: Index, preparer: Preparer, text: TextCounter) -> str:
    how = preparer.settings
    settings = [
        FORMAT_VERSION,
        index.fingerprint,
        text.identity,
        asdict(how.sampling),
        asdict(how.budget),
        how.patch_size,
        how.image_merge_size,
        how.video_merge_size,
        how.clip and asdict(how.clip),
        how.stream_max_frames,
        how.streams,
        preparer.visuals,
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _no_progress(done: int, total: int) -> None:
    """Show no progress."""
