"""Shards of an index: the shares of processes that make one index together, on one machine or many.

INDEX/shards/1-of-3.jsonl   journal of shard 1/3: what it was made from, blocks of rows and facts of files, one a line
             1-of-3.lock    held by the process that works on it
      shards.lock           held by all of them together, and by a merge alone
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_apollo.data.index.journal import records
from lightning_apollo.data.index.tables import FORMAT_VERSION
from lightning_apollo.data.media.media_facts import MediaKey
from lightning_apollo.data.source import Source
from lightning_apollo.data.storage.roots import FolderRoot
from lightning_apollo.errors import UserError
from lightning_apollo.files import try_lock

BLOCK_ROWS = 256  # rows that are read and written down together
BLOCK, HEADER = '{"block": ', '{"settings": '  # beginnings of the lines

_FOLDER, _LOCK = "shards", "shards.lock"
_JOURNAL = re.compile(r"(\d+)-of-(\d+)\.jsonl")


class ShardError(UserError, ValueError):
    """Shards that cannot be made or merged; one line that says what to do."""


@dataclass(frozen=True)
class Shard:
    """The share of one of `count` processes."""

    number: int  # from 0
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ShardError(f"--shard {self}: n is at least 1")
        if not 0 <= self.number < self.count:
            raise ShardError(f"--shard {self}: of {self.count} shards, i is from 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, word: str, environment: Mapping[str, str]) -> Shard:
        """The shard that `i/n` names, or with `auto` that of a torchrun process or a task of a SLURM array."""
        if word == "auto":
            return _shard_of(environment)
        number, slash, count = word.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ShardError(f"--shard {word}: write i/n, as 0/4 to 3/4, or auto")
        return cls(int(number), int(count))

    def has_media(self, key: MediaKey) -> bool:
        """True if the file is this shard's, whatever other files there are."""
        return (
            int.from_bytes(hashlib.sha256(key.path.encode(errors="replace")).digest()[:8]) % self.count == self.number
        )

    def has_block(self, block: int) -> bool:
        """True if this shard writes down these rows."""
        return block % self.count == self.number

    def journal(self, folder: Path) -> Path:
        return folder / _FOLDER / f"{self.number}-of-{self.count}.jsonl"

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Hold the shard; ShardError where another process has it, or a merge is at work."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("a+") as common:
            if not try_lock(common, is_shared=True):
                raise ShardError(f"{folder}: its shards are being merged: run this again when that has ended")
            path = self.journal(folder).with_suffix(".lock")
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as own:
                if not try_lock(own):
                    raise ShardError(f"{folder}: another process works on shard {self}: give every process its own i/n")
                yield


@dataclass(frozen=True)
class Header:
    """First record of a journal."""

    settings: Mapping[str, str]  # name -> what rows and their media depend on
    deadline: float | None  # seconds for the probe of a file; None: without

    def difference(self, now: Mapping[str, str]) -> str | None:
        """The first setting that is another in `now`, for a message; None where all are the same."""
        for name in [*now, *self.settings]:
            if name not in self.settings:
                return f"without {name}"
            if name not in now:
                return f"with {name}, which is not there now"
            if self.settings[name] != now[name]:
                return f"with another {name}"
        return None


def read_header(journal: Path) -> Header | None:
    """The header of a journal; None where there is none."""
    record: dict[str, Any] | None = next(records(journal, begins=HEADER), None)
    return None if record is None else Header(record["settings"], record["deadline"])


def shard_settings(sources: Sequence[Source], digests: Mapping[str, str], text_identity: str) -> dict[str, str]:
    """All that an index depends on besides its media; `digests` are those of `manifest_digests`."""
    settings = {"index format": FORMAT_VERSION, "list of sources": ", ".join(source.name for source in sources)}
    for source in sources:
        outside = source.root.outside_root if isinstance(source.root, FolderRoot) else ()
        settings[f"root of source {source.name}"] = source.root.address("media")
        settings[f"data.outside_root in source {source.name}"] = ", ".join(outside)
        for kind in dict.fromkeys(manifest.unknown_keys for manifest in source.manifests):
            settings[f"data.unknown_keys in source {source.name}"] = kind
    settings |= {f"manifest {name} (source/number/file)": digest for name, digest in digests.items()}
    return settings | {"tokenizer, system prompt or text of clips": text_identity}


def found_shards(folder: Path) -> dict[Shard, Path]:
    """The journals that lie in an index, by their shards."""
    places = sorted((folder / _FOLDER).glob("*.jsonl")) if (folder / _FOLDER).is_dir() else []
    found = [(match, path) for path in places if (match := _JOURNAL.fullmatch(path.name))]
    return {Shard(int(match[1]), int(match[2])): path for match, path in found}


@contextmanager
def hold_all(folder: Path) -> Iterator[None]:
    """Hold all shards; ShardError where a process works on one of them, or on a merge."""
    with (folder / _LOCK).open("a+") as common:
        if not try_lock(common):
            raise ShardError(f"{folder}: a shard is being made, or a merge is at work: merge when all have ended")
        yield


def remove_shards(folder: Path) -> None:
    """Remove all journals, for a caller that holds all shards."""
    if (folder / _FOLDER).is_dir():
        shutil.rmtree(folder / _FOLDER)


def _shard_of(environment: Mapping[str, str]) -> Shard:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Shard(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    task, last, count = (environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MAX", "COUNT"))
    if task is None or last is None or count is None:
        raise ShardError("--shard auto: neither torchrun nor a SLURM array started this: write i/n, as 0/4 to 3/4")
    if int(last) + 1 != int(count):  # as where some tasks are submitted again
        raise ShardError(f"--shard auto: the array is not one of tasks 0 to n-1: write --shard {task}/n")
    return Shard(int(task), int(count))
