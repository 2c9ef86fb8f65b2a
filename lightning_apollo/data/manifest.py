"""Annotation files: a manifest is a JSON list or JSON lines, each row one conversation about media files.

Rows stay in the file: a manifest holds two numbers for each, and reads and checks a row when it is asked for. In tar
shards a row may also be a file of its own, beside its media, as WebDataset writes them.
docs/data.md shows every format of a row with an example; rows.py parses them.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, overload

import numpy as np

from lightning_apollo.data import storage
from lightning_apollo.data.annotations.keys import REFUSE
from lightning_apollo.data.roots import FolderRoot, MediaRoot, ShardRoot
from lightning_apollo.data.rows import Conversation, RowError, read_row
from lightning_apollo.data.shards import ShardTable
from lightning_apollo.errors import UserError
from lightning_apollo.structures import MediaError

MEMBERS = "*.json"  # in the place of a manifest: every .json member of tar shards is a row

_UNREADABLE = "nested too deeply, or with a number too long"


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


def open_manifest(name: str, source: str, root: MediaRoot, unknown_keys: str = REFUSE) -> Manifest:
    """The manifest that a recipe calls so: the file or object of this name where there is one, otherwise that below the
    root. With shards for a root, `*.json` is all rows that lie in them, each a member of its own."""
    if name == MEMBERS and isinstance(root, ShardRoot):
        return Manifest(name, source, root, _MemberRows(root.table), unknown_keys)
    is_below = not storage.is_object(name) and not Path(name).is_file()
    return read_manifest(root.address(name) if is_below else name, source, root, unknown_keys=unknown_keys)


def read_manifest(
    path: Path | str,
    source: str,
    root: Path | MediaRoot,
    outside_root: Sequence[str] = (),
    unknown_keys: str = REFUSE,
) -> Manifest:
    """The conversations of a .json or .jsonl file, given by its path or address, each parsed and checked when it is read.

    Media paths are relative to `root` and stay inside it; where that is a folder, `outside_root` names further ones that
    are allowed. `unknown_keys` says what happens to keys of a row that are not read: "refuse" or "ignore".
    """
    address = str(path)
    suffix = PurePosixPath(storage.name_of(address)).suffix
    if suffix not in (".json", ".jsonl"):
        raise ManifestError(address, "", f"{suffix!r} is no manifest: give a .json list or .jsonl lines")
    try:
        local = storage.local_copy(address)
        spans = _line_spans(local) if suffix == ".jsonl" else _list_spans(address, local)
    except MediaError as error:
        raise MissingManifest(address, "", f"{error.reason}: correct the path of the manifest") from None
    rows = _FileRows(local, "line" if suffix == ".jsonl" else "row", *spans)
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
            messages, ignored_keys = read_row(_load(self._rows.read(position)), self.unknown_keys)
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
        """What a row is called, whether it can be read or not."""
        return f"{self.name}:{position + 1}"

    def digest(self) -> str:
        """SHA-256 of its content, wherever it lies, and of what else its rows depend on."""
        digest = self._rows.digest()
        return digest if self.unknown_keys == REFUSE else f"{digest}, {self.unknown_keys} unknown keys"


class _Rows(Protocol):
    """The bytes of rows."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> bytes: ...

    def place(self, position: int) -> str:
        """Where a row is, for a reader of errors."""
        ...

    def digest(self) -> str: ...


@dataclass(frozen=True)
class _FileRows:
    """Parts of one file."""

    address: str  # on this machine
    kind: str  # line | row
    starts: array[int]  # byte where each row begins
    ends: array[int]  # byte after its last

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, position: int) -> bytes:
        with storage.open_address(self.address) as file:
            file.seek(self.starts[position])
            return file.read(self.ends[position] - self.starts[position])

    def place(self, position: int) -> str:
        return f"{self.kind} {position + 1}"

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

    def read(self, position: int) -> bytes:
        with storage.open_address(self._table.address(int(self._members[position]))) as file:
            return file.read()

    def place(self, position: int) -> str:
        member = int(self._members[position])
        return f"{self._table.name(member)} in {self._table.shard(member)}"

    def digest(self) -> str:
        digest = hashlib.sha256()
        for position in range(len(self)):
            digest.update(hashlib.sha256(self.read(position)).digest())
        return digest.hexdigest()


def _load(raw: bytes) -> object:
    if raw.isspace():
        raise RowError("blank: remove the line")
    try:
        return json.loads(raw.rstrip(b"\r\n"))
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON ({error.msg} at character {error.pos + 1}): write one object on one line") from None
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8") from None
    except (RecursionError, ValueError) as error:  # JSON that Python does not read: too deep, a number too long
        raise RowError(f"{_UNREADABLE} ({error}): correct or remove the row") from None


def _line_spans(address: str) -> tuple[array[int], array[int]]:
    """Where each line begins and ends, in bytes; blank lines at the end of the file are no rows."""
    starts, ends, offset, num_rows = array("Q"), array("Q"), 0, 0
    with storage.open_address(address) as file:
        for line in file:
            starts.append(offset)
            offset += len(line)
            ends.append(offset)
            if not line.isspace():
                num_rows = len(starts)
    return starts[:num_rows], ends[:num_rows]


_BLANKS = re.compile(r"[ \t\r\n]+")


def _list_spans(address: str, local: str) -> tuple[array[int], array[int]]:
    """Where each element of a JSON list begins and ends, in bytes; `local` is its copy on this machine."""
    # Read as Latin-1, one character is one byte, and the characters that JSON is built of are the same in UTF-8.
    with storage.open_address(local) as file:
        text = file.read().decode("latin-1")
    starts, ends = array("Q"), array("Q")
    decoder = json.JSONDecoder()
    position = _after_blanks(text, 0)
    if text[position : position + 1] != "[":
        raise ManifestError(address, "", "not a JSON list: write [row, row, ...], or name a file of lines .jsonl")
    position = _after_blanks(text, position + 1)
    while text[position : position + 1] != "]":
        try:
            _, end = decoder.raw_decode(text, position)
            starts.append(position)
            ends.append(end)
            position = _after_blanks(text, end)
            if text[position : position + 1] == ",":
                position = _after_blanks(text, position + 1)
            elif text[position : position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg} on line {error.lineno}): correct the file there"
            raise ManifestError(address, f"row {len(starts) + 1}", reason) from None
        except (RecursionError, ValueError) as error:
            reason = f"{_UNREADABLE} ({error}): correct or remove the row"
            raise ManifestError(address, f"row {len(starts) + 1}", reason) from None
    return starts, ends


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position
