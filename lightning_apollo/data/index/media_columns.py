"""Facts of media in compact columns, a hundred bytes a file; M files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightning_apollo.data.index.journal import media_of_record, records
from lightning_apollo.data.index.rows import key_of_text, key_text, paths_of_keys
from lightning_apollo.data.index.tables import FORMAT_VERSION, MEDIA, MEDIA_SCHEMA, MODALITIES, dictionary, none_if_nan
from lightning_apollo.data.media.media_facts import MediaKey, ProbeResult
from lightning_apollo.data.storage.address import file_state
from lightning_apollo.structures import MediaInfo, Modality

Known = Iterable[tuple[MediaKey, ProbeResult]]

_AT_A_TIME = 16_384
_STAT_THREADS, _STATS_AT_A_TIME = 16, 64
_STATE = ("file_bytes", "mtime_ns")
_NUMBERS = {
    field.name: np.dtype(field.type.to_pandas_dtype())
    for field in MEDIA_SCHEMA
    if field.name not in ("path", "modality", "codec", "error")
}
_INFO = tuple(name for name in _NUMBERS if name not in _STATE)


class MediaColumns:
    """The facts of files by their number, and whether they are known yet."""

    def __init__(self, keys: pa.StringArray) -> None:
        """`keys`, as SampleRows gives them, (M,)."""
        self.is_known = np.zeros(len(keys), bool)
        self.is_broken = np.zeros(len(keys), bool)
        self._keys = keys
        self._numbers = {name: np.zeros(len(keys), dtype) for name, dtype in _NUMBERS.items()}
        self._codec = [""] * len(keys)
        self._errors: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.is_known)

    def key(self, number: int) -> MediaKey:
        return key_of_text(self._keys[number].as_py())

    def set(self, number: int, facts: ProbeResult) -> None:
        """Note the facts of a file, whatever was known before."""
        self.is_known[number], self.is_broken[number] = True, facts.info is None
        for name, value in zip(_STATE, (facts.file_bytes, facts.mtime_ns), strict=True):
            self._numbers[name][number] = value
        for name in _INFO:
            self._numbers[name][number] = 0 if facts.info is None else getattr(facts.info, name) or 0
        if facts.info is None or facts.info.fps is None:
            self._numbers["fps"][number] = np.nan
        self._codec[number] = "" if facts.info is None else sys.intern(facts.info.codec)
        self._errors.pop(number, None)
        if facts.error is not None:
            self._errors[number] = sys.intern(facts.error)

    def update(self, known: Known) -> None:
        """Note the facts of all files among these that have a number; later ones replace earlier ones."""
        found = iter(known)
        while batch := list(islice(found, _AT_A_TIME)):
            texts = pa.array([key_text(key) for key, _ in batch], pa.string())
            numbers = pc.call_function("index_in", [texts], pc.SetLookupOptions(self._keys)).to_pylist()
            for number, (_, facts) in zip(numbers, batch, strict=True):
                if number is not None:
                    self.set(number, facts)

    def changed(self, progress: Callable[[int], None]) -> list[int]:
        """Known files whose size or time of change is another now; `progress` is told how many were looked at."""
        changed = []
        for first in range(0, len(self), _AT_A_TIME):
            last = min(first + _AT_A_TIME, len(self))
            numbers = first + np.flatnonzero(self.is_known[first:last])
            paths = paths_of_keys(self._keys.take(pa.array(numbers))).to_pylist()
            before = zip(*(self._numbers[name][numbers].tolist() for name in _STATE), strict=True)
            places = zip(numbers.tolist(), file_states(paths), before, strict=True)
            changed += [number for number, now, then in places if now != then]
            progress(last)
        return changed

    def forget(self, numbers: list[int]) -> None:
        """Facts that are to be found out again."""
        self.is_known[numbers] = self.is_broken[numbers] = False

    def facts(self, number: int) -> MediaInfo | str:
        """The facts of a file, or the error of a broken one."""
        if self.is_broken[number]:
            return self._errors[number]
        key = self.key(number)
        row = {name: column[number].item() for name, column in self._numbers.items()}
        return self._info(key.path, key.modality, row, number)

    def digest_lines(self) -> Iterator[str]:
        """Lines that a fingerprint hashes. They leave out where files lie and when they were written."""
        for first in range(0, len(self), _AT_A_TIME):
            rows = range(first, min(first + _AT_A_TIME, len(self)))
            columns = {name: column[rows.start : rows.stop].tolist() for name, column in self._numbers.items()}
            keys = map(key_of_text, self._keys.slice(first, len(rows)).to_pylist())
            for place, (number, key) in enumerate(zip(rows, keys, strict=True)):
                row = {name: column[place] for name, column in columns.items()}
                info = None if self.is_broken[number] else self._info("", key.modality, row, number)
                yield json.dumps([key.modality, row["file_bytes"], info and vars(info)])

    def table(self) -> pa.Table:
        """The media table of an index, without its metadata."""
        is_video = pc.call_function("starts_with", [self._keys], pc.MatchSubstringOptions("video:"))
        modality = pc.call_function("if_else", [is_video, pa.scalar("video"), pa.scalar("image")])
        columns: dict[str, Any] = {
            **self._numbers,
            "path": paths_of_keys(self._keys),
            "modality": dictionary(modality, MODALITIES),
            "codec": self._codec,
            "error": [self._errors.get(number) for number in range(len(self))],
        }
        return pa.table([pa.array(columns[field.name], field.type) for field in MEDIA_SCHEMA], schema=MEDIA_SCHEMA)

    def _info(self, path: str, modality: Modality, row: dict[str, Any], number: int) -> MediaInfo:
        info = {name: row[name] for name in _INFO}
        info["fps"] = none_if_nan(info["fps"])
        return MediaInfo(path=path, modality=modality, codec=self._codec[number], **info)


def file_states(addresses: Sequence[str]) -> Iterator[tuple[int, int]]:
    """`file_state` of every address; a disk on the network answers many at a time."""
    some = [addresses[first : first + _STATS_AT_A_TIME] for first in range(0, len(addresses), _STATS_AT_A_TIME)]
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        for states in pool.map(lambda few: [file_state(address) for address in few], some):
            yield from states


def facts_of_journal(path: Path) -> Known:
    """The facts of files that a journal holds."""
    return map(media_of_record, records(path, begins="["))


def facts_of_table(folder: Path) -> Known:
    """The facts of files that an index holds; none where there is no index of this version."""
    table = folder / f"{MEDIA}.parquet"
    if (
        not table.is_file()
        or (pq.read_metadata(table).metadata or {}).get(b"format_version") != FORMAT_VERSION.encode()
    ):
        return
    for batch in pq.ParquetFile(table).iter_batches(_AT_A_TIME):
        for row in batch.to_pylist():
            state = row.pop("file_bytes"), row.pop("mtime_ns"), row.pop("error")
            row["fps"] = none_if_nan(row["fps"])
            info = MediaInfo(**row) if state[2] is None else None
            yield MediaKey(row["path"], row["modality"]), ProbeResult(info, *state)
