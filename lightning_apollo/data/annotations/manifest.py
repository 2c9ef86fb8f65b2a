"""Annotation files: a JSON list, JSON lines or a table (Parquet, Arrow). Each row is one conversation about media.

Rows stay in the file: a manifest of JSON holds two numbers for each, one of a table none, and a row is read and checked
when it is asked for. In tar shards a row may also be a file of its own, beside its media, as WebDataset writes them.
docs/data.md shows every format of a row with an example; rows.py parses them.
"""

from __future__ import annotations

import glob
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, overload

import numpy as np

from lightning_apollo.data.annotations import encodings, json_rows
from lightning_apollo.data.annotations.beside import media_beside
from lightning_apollo.data.annotations.keys import IGNORE, REFUSE
from lightning_apollo.data.annotations.rows import read_row
from lightning_apollo.data.conversation import Conversation, MediaPart, RowError
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import tables
from lightning_apollo.data.storage.embedded import lift_pictures
from lightning_apollo.data.storage.roots import FolderRoot, MediaRoot, ObjectRoot, ShardRoot
from lightning_apollo.data.storage.shards import ShardTable, expand, matching
from lightning_apollo.errors import MISSING, UserError
from lightning_apollo.structures import MediaError

MEMBERS = "*.json"  # in the place of a manifest: every .json member of tar shards is a row


class ManifestError(UserError, ValueError):
    """A manifest that cannot be used: its file, the line (.jsonl) or row (.json), what is wrong, and the fix."""

    def __init__(self, path: str, place: str, reason: str) -> None:
        super().__init__(path, place, reason)  # all in args, so that the error survives pickling out of a loader worker
        self.path = path
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}, {self.place}: {self.reason}" if self.place else f"{self.path}: {self.reason}"


class MissingManifest(ManifestError):
    """A manifest that is not there, or not yet."""


def manifest_names(pattern: str, root: MediaRoot) -> list[str]:
    """The files that `*`, `?`, `[...]` and `{...}` stand for, here or else below the root; a name that is one, or none,
    itself."""
    if pattern == MEMBERS or Path(pattern).exists():
        return [pattern]
    return [found for expanded in expand(pattern) for found in _matching(expanded, root) or [expanded]]


def _matching(pattern: str, root: MediaRoot) -> list[str]:
    found = matching(pattern)
    if found or not glob.has_magic(pattern):
        return found
    if isinstance(root, FolderRoot):
        return sorted(glob.glob(pattern, root_dir=root.root))
    return matching(f"{root.root.rstrip('/')}/{pattern}") if isinstance(root, ObjectRoot) else []


def open_manifest(name: str, source: str, root: MediaRoot, unknown_keys: str = REFUSE) -> Manifest:
    """The manifest that a recipe calls so: the file or object of this name where there is one, otherwise that below the
    root. With shards for a root, `*.json` is all rows that lie in them, each a member of its own."""
    if name == MEMBERS and isinstance(root, ShardRoot):
        return Manifest(name, source, root, _MemberRows(root.table), unknown_keys)
    if storage.is_object(name):
        storage.object_store().require_store(name)
    is_below = not storage.is_object(name) and not Path(name).is_file()
    return read_manifest(root.address(name) if is_below else name, source, root, unknown_keys=unknown_keys)


def read_manifest(
    path: Path | str,
    source: str,
    root: Path | MediaRoot,
    outside_root: Sequence[str] = (),
    unknown_keys: str = REFUSE,
) -> Manifest:
    """The conversations of a .json, .jsonl, .parquet or .arrow file, given by its path or address, each parsed and checked
    when it is read.

    Media paths are relative to `root` and stay inside it; where that is a folder, `outside_root` names further ones that
    are allowed. `unknown_keys` says what happens to keys of a row that are not read: "refuse" or "ignore".
    """
    address = str(path)
    suffix = PurePosixPath(storage.name_of(address)).suffix
    if suffix not in (".json", ".jsonl", *tables.SUFFIXES):
        kind = "a folder" if Path(address).is_dir() else repr(suffix)
        fix = "give a .json list, .jsonl lines, .parquet or .arrow tables (FOLDER/*.arrow for all in a folder)"
        raise ManifestError(address, "", f"{kind} is no manifest: {fix}")
    try:
        local = storage.local_copy(address)
        storage.open_address(local).close()
        rows = _TableRows(local, tables.num_rows(local)) if suffix in tables.SUFFIXES else _file_rows(local, suffix)
    except MediaError as error:
        if error.kind not in ("", MISSING):
            raise ManifestError(address, "", error.reason) from error
        raise MissingManifest(address, "", f"{error.reason}: correct the path of the manifest") from None
    except json_rows.ListError as error:
        raise ManifestError(address, f"row {error.row}", str(error)) from error
    except RowError as error:
        raise ManifestError(address, "", str(error)) from error
    if isinstance(root, Path):
        root = FolderRoot(str(root), tuple(outside_root))
    return Manifest(address, source, root, rows, unknown_keys)


def check_manifest(manifest: Manifest) -> Iterator[ManifestError]:
    """Every error of a manifest, in the order of its rows, after reading all of them; media files are not opened."""
    for position in range(len(manifest)):
        try:
            manifest[position]
        except ManifestError as error:
            yield error


class Manifest(Sequence[Conversation]):
    """Conversations in the order of their file. No file stays open, so a manifest can be pickled and forked."""

    def __init__(self, address: str, source: str, root: MediaRoot, rows: _Rows, unknown_keys: str = REFUSE) -> None:
        self.address = address
        self.source = source
        self.root = root
        self.unknown_keys = unknown_keys
        self._rows = rows

    @property
    def name(self) -> str:
        """The last part of its path."""
        return storage.name_of(self.address)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        try:
            messages, ignored_keys = read_row(self._rows.read(position), self.unknown_keys)
            conversation = Conversation(self.sample_id(position), self.source, messages, ignored_keys)
            for part in conversation.media:
                for path in part.paths:
                    self.root.check(path)
        except RowError as error:
            raise ManifestError(self.address, self._rows.place(position), str(error)) from None
        except MediaError as error:
            raise ManifestError(self.address, self._rows.place(position), error.reason) from error
        return conversation

    def sample_id(self, position: int) -> str:
        """Id of a row, readable or not."""
        return f"{self.name}:{position + 1}"

    def fields(self, position: int) -> dict[str, object]:
        """A row as it is written, with what changes no sample (its kind, where it comes from); empty for what is no row."""
        try:
            row = self._rows.read(position)
        except RowError:
            return {}
        return row if isinstance(row, dict) else {}

    def media(self, position: int) -> tuple[MediaPart, ...]:
        """The media of a row that may be refused for other reasons (unknown keys, paths outside the root); none of a row
        that cannot be read."""
        try:
            messages, _ = read_row(self._rows.read(position), IGNORE)
        except RowError:
            return ()
        return Conversation(self.sample_id(position), self.source, messages).media

    def content_digest(self) -> str:
        """SHA-256 of its content, wherever it lies."""
        return self._rows.digest()

    def digest(self) -> str:
        """The digest of its content, and what else its rows depend on."""
        digest = self.content_digest()
        return digest if self.unknown_keys == REFUSE else f"{digest}, {self.unknown_keys} unknown keys"


class _Rows(Protocol):
    """Rows where they lie."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> object:
        """A row as JSON gives it, media inside it replaced by their addresses; RowError where it is not JSON."""
        ...

    def place(self, position: int) -> str:
        """Place of a row, for a reader of errors."""
        ...

    def digest(self) -> str: ...


@dataclass(frozen=True)
class _FileRows:
    """Parts of one JSON file."""

    address: str  # on this machine, in UTF-8
    kind: str  # line | row
    starts: array[int]  # byte where each row begins
    ends: array[int]  # byte after its last

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, position: int) -> object:
        begin = self.starts[position]
        with storage.open_address(self.address) as file:
            file.seek(begin)
            raw = file.read(self.ends[position] - begin)
        return lift_pictures(json_rows.load(encodings.decode_text(raw)), raw, self.address, position + 1, begin)

    def place(self, position: int) -> str:
        return f"{self.kind} {position + 1}"

    def digest(self) -> str:
        with storage.open_address(self.address) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _file_rows(local: str, suffix: str) -> _FileRows:
    """The rows of a JSON list, or of JSON lines; `local` is the address of the file on this machine."""
    local, is_lines = encodings.as_utf8(local), suffix == ".jsonl"
    with storage.open_address(local) as file:
        first = encodings.mark_bytes(file.read(3))  # byte of the text
        file.seek(first)
        spans = json_rows.line_spans(file, first) if is_lines else json_rows.list_spans(file, first)
    return _FileRows(local, "line" if is_lines else "row", *spans)


@dataclass(frozen=True)
class _TableRows:
    """The rows of a table."""

    address: str  # on this machine
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows

    def read(self, position: int) -> object:
        return tables.read_table_row(self.address, position)

    def place(self, position: int) -> str:
        return f"row {position + 1}"

    def digest(self) -> str:
        with storage.open_address(self.address) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class _MemberRows:
    """Members of shards, each one row."""

    def __init__(self, table: ShardTable) -> None:
        self._table = table
        self._members: np.ndarray = table.ending(MEMBERS.removeprefix("*"))

    def __len__(self) -> int:
        return len(self._members)

    def read(self, position: int) -> object:
        member = int(self._members[position])
        raw = self._bytes(member)
        row = lift_pictures(json_rows.load(encodings.decode_file(raw)), raw, self._table.address(member), 1, 0)
        return media_beside(row, self._table, member)

    def place(self, position: int) -> str:
        member = int(self._members[position])
        return f"{self._table.name(member)} in {self._table.shard(member)}"

    def digest(self) -> str:
        digest = hashlib.sha256()
        for position in range(len(self)):
            digest.update(hashlib.sha256(self._bytes(int(self._members[position]))).digest())
        return digest.hexdigest()

    def _bytes(self, member: int) -> bytes:
        with storage.open_address(self._table.address(member)) as file:
            return file.read()
