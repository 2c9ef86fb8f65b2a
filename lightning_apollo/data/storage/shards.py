"""Random access to tar shards through a member table that every process maps.

The table is an Arrow file in the cache folder, under a name made from the shards, their sizes and times of change.
"""

from __future__ import annotations

import glob
import hashlib
import json
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.errors import MISSING
from lightning_apollo.files import lock, write_atomically
from lightning_apollo.structures import MediaError

_FORMAT_VERSION = "1"
_SCHEMA = pa.schema(
    {
        "name": pa.string(),  # shard after shard, in the order of their members
        "shard": pa.int32(),
        "begin": pa.int64(),  # byte of the shard
        "num_bytes": pa.int64(),
        "sorted_hash": pa.uint64(),  # of all names, in rising order ...
        "sorted_place": pa.int64(),  # ... and which member each of them is
    }
)


def open_shards(pattern: str) -> ShardTable:
    """The members of all shards that match; on the first call their headers are read, one after the other.

    `{000..012}` and `{a,b}` stand for all their values, `*`, `?` and `[...]` for the files that are there. StorageError
    for no shard, a broken one, or a name that two members have.
    """
    shards = [shard for expanded in expand(pattern) for shard in _existing(expanded)]
    states = [storage.file_state(shard) for shard in shards]
    for shard, (num_bytes, _) in zip(shards, states, strict=True):
        if num_bytes < 0:
            raise _unreadable(shard, pattern)
    key = hashlib.sha256(json.dumps([_FORMAT_VERSION, shards, states]).encode()).hexdigest()
    path = storage.cache_folder() / f"shards-{key}.arrow"
    with lock(storage.cache_folder() / "shards.lock"):  # ranks that ask for it at once wait for the first of them
        if not path.is_file():
            _write_table(path, shards)
    return ShardTable(path)


class ShardTable:
    """Names and places of the members of some shards, mapped: processes share the pages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._shards: list[str] = json.loads(table.schema.metadata[b"shards"])
        self._names = table.column("name")
        columns = (table.column(name).to_numpy() for name in table.column_names[1:])
        self._shard, self._begin, self._num_bytes, self._sorted_hash, self._sorted_place = columns

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[type[ShardTable], tuple[Path]]:
        return ShardTable, (self.path,)  # a process that is handed a table maps the file itself

    def find(self, name: str) -> int | None:
        """The number of the member of this name."""
        hashed = np.uint64(_hash(name))
        first, last = (int(np.searchsorted(self._sorted_hash, hashed, side)) for side in ("left", "right"))
        for member in self._sorted_place[first:last].tolist():
            if self.name(member) == name:
                return member
        return None

    def ending(self, suffix: str) -> np.ndarray:
        """(R,) int64, rising: the numbers of the members whose names end so."""
        ends = pc.call_function("ends_with", [self._names], pc.MatchSubstringOptions(suffix))
        return np.flatnonzero(ends.to_numpy())

    def name(self, member: int) -> str:
        return self._names[member].as_py()

    def shard(self, member: int) -> str:
        """The address of the shard that a member is in."""
        return self._shards[self._shard[member]]

    def address(self, member: int) -> str:
        begin, num_bytes = int(self._begin[member]), int(self._num_bytes[member])
        return storage.member_address(self.shard(member), self.name(member), begin, num_bytes)


class _Member(NamedTuple):
    name: str
    shard: int
    begin: int
    num_bytes: int


def _write_table(path: Path, shards: Sequence[str]) -> None:
    members = [member for number, shard in enumerate(shards) for member in _members(number, shard)]
    names, *places = zip(*members, strict=True) if members else ((),) * 4
    hashes = np.array([_hash(name) for name in names], np.uint64)
    order = np.argsort(hashes, kind="stable")
    _refuse_repeated((members[member] for member in order.tolist()), shards)
    arrays = [pa.array(values, field.type) for values, field in zip((names, *places), _SCHEMA, strict=False)]
    schema = _SCHEMA.with_metadata({"shards": json.dumps(list(shards))})
    batch = pa.record_batch([*arrays, pa.array(hashes[order]), pa.array(order)], schema=schema)
    with (
        write_atomically(path) as partial,
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        writer.write_batch(batch)


def _members(number: int, shard: str) -> Iterator[_Member]:
    """The files of a shard in their order."""
    try:
        with storage.open_address(shard) as file, tarfile.open(fileobj=file, mode="r:", errors="replace") as archive:
            for header in archive:
                if header.isfile() and not header.issparse():
                    yield _Member(posixpath.normpath(header.name), number, header.offset_data, header.size)
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (else every header stays in memory)
    except tarfile.TarError as error:
        raise StorageError(f"{shard}: no uncompressed tar file, or cut short ({error}): write it anew") from error
    except MediaError as error:
        raise StorageError(str(error), error.kind) from error


def _refuse_repeated(members: Iterable[_Member], shards: Sequence[str]) -> None:
    """StorageError where two neighbours have one name."""
    for first, second in pairwise(members):
        if first.name == second.name:
            both = " and ".join(dict.fromkeys([shards[first.shard], shards[second.shard]]))
            raise StorageError(f"{first.name} is twice in {both}: rename one, or make the shards sources of their own")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _unreadable(shard: str, pattern: str) -> StorageError:
    """Error of a shard in the words of its store."""
    try:
        storage.open_address(shard).close()
    except MediaError as error:
        if error.kind != MISSING:
            return StorageError(str(error), error.kind)
    return StorageError(f"{shard}: no such shard, or it cannot be read: correct the root {pattern}", MISSING)


def expand(pattern: str) -> list[str]:
    """The pattern with each of the values that its braces stand for."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    if numbers:
        first, last = numbers.groups()
        values = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        values = braces[1].split(",")
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [expanded for value in values for expanded in expand(f"{head}{value}{tail}")]


def matching(pattern: str) -> list[str]:
    """The files or objects that `*`, `?` and `[...]` stand for, sorted; a name without them itself, there or not."""
    if not storage.is_object(pattern):
        return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not glob.has_magic(pattern.partition("://")[2].partition("/")[2]):  # the brackets of an IPv6 host are none
        return [pattern]
    try:
        return storage.object_store().list_objects(pattern)
    except MediaError as error:
        raise StorageError(str(error), error.kind) from error


def _existing(pattern: str) -> list[str]:
    found = matching(pattern)
    if not found:
        raise StorageError(f"{pattern}: no shard matches: correct the root")
    return found
