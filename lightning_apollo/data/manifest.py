"""Annotation files: a manifest is a JSON list or JSON lines, each row one conversation about media files.

Rows stay in the file: a manifest holds two numbers for each, and reads and checks a row when it is asked for.
docs/data.md shows every format of a row with an example; rows.py parses them.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from lightning_apollo.data.rows import Conversation, MediaPart, RowError, parse_row


class ManifestError(ValueError):
    """A manifest that cannot be used: its file, the line (.jsonl) or row (.json), what is wrong, and the fix."""

    def __init__(self, path: str, place: str, reason: str) -> None:
        super().__init__(path, place, reason)  # all in args, so that the error survives pickling out of a loader worker
        self.path = path
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}, {self.place}: {self.reason}" if self.place else f"{self.path}: {self.reason}"


def read_manifest(path: Path, source: str, root: Path, outside_root: Sequence[str] = ()) -> Manifest:
    """The conversations of a .json or .jsonl file, each parsed and checked when it is read.

    Media paths are relative to `root` and stay inside it; `outside_root` names further folders that are allowed.
    """
    if not path.is_file():
        raise ManifestError(str(path), "", "no such file: correct the path of the manifest")
    if path.suffix not in (".json", ".jsonl"):
        raise ManifestError(str(path), "", f"{path.suffix!r} is no manifest: give a .json list or .jsonl lines")
    starts, ends = _line_spans(path) if path.suffix == ".jsonl" else _list_spans(path)
    roots = tuple(os.path.realpath(folder) for folder in (root, *outside_root))
    return Manifest(path, source, roots, starts, ends)


def check_manifest(manifest: Manifest) -> Iterator[ManifestError]:
    """Every error of a manifest, in the order of its rows, after reading all of them; media files are not opened."""
    for position in range(len(manifest)):
        try:
            manifest[position]
        except ManifestError as error:
            yield error


class Manifest(Sequence[Conversation]):
    """Conversations in the order of their file. No file stays open, so a manifest can be pickled and forked."""

    def __init__(self, path: Path, source: str, roots: tuple[str, ...], starts: array[int], ends: array[int]) -> None:
        self.path = path
        self.source = source
        self.roots = roots  # real paths of the data root and of the folders that are allowed beside it
        self._starts = starts  # byte where each row begins
        self._ends = ends  # byte after its last

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        with self.path.open("rb") as file:
            file.seek(self._starts[position])
            raw = file.read(self._ends[position] - self._starts[position])
        try:
            messages = parse_row(_load(raw))
            for message in messages:
                for part in message.parts:
                    if isinstance(part, MediaPart):
                        self._check_path(part.path)
        except RowError as error:
            kind = "line" if self.path.suffix == ".jsonl" else "row"
            raise ManifestError(str(self.path), f"{kind} {position + 1}", str(error)) from None
        return Conversation(f"{self.path.name}:{position + 1}", self.source, messages)

    def _check_path(self, path: str) -> None:
        # realpath follows symbolic links, so a link inside the root cannot lead out of it either
        resolved = os.path.realpath(os.path.join(self.roots[0], path))
        if not any(os.path.commonpath([resolved, root]) == root for root in self.roots):
            raise RowError(
                f"media path {path!r} leaves the data root {self.roots[0]}: "
                "move the file there, or name its folder in data.outside_root"
            )


def _load(raw: bytes) -> object:
    if raw.isspace():
        raise RowError("blank: remove the line")
    try:
        return json.loads(raw.rstrip(b"\r\n"))
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON ({error.msg} at character {error.pos + 1}): write one object on one line") from None
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8") from None


def _line_spans(path: Path) -> tuple[array[int], array[int]]:
    """Where each line begins and ends, in bytes; blank lines at the end of the file are no rows."""
    starts, ends, offset, num_rows = array("Q"), array("Q"), 0, 0
    with path.open("rb") as file:
        for line in file:
            starts.append(offset)
            offset += len(line)
            ends.append(offset)
            if not line.isspace():
                num_rows = len(starts)
    return starts[:num_rows], ends[:num_rows]


_BLANKS = re.compile(r"[ \t\r\n]+")


def _list_spans(path: Path) -> tuple[array[int], array[int]]:
    """Where each element of a JSON list begins and ends, in bytes."""
    # Read as Latin-1, one character is one byte, and the characters that JSON is built of are the same in UTF-8.
    text = path.read_bytes().decode("latin-1")
    starts, ends = array("Q"), array("Q")
    decoder = json.JSONDecoder()
    position = _after_blanks(text, 0)
    if text[position : position + 1] != "[":
        raise ManifestError(str(path), "", "not a JSON list: write [row, row, ...], or name a file of lines .jsonl")
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
            raise ManifestError(str(path), f"row {len(starts) + 1}", reason) from None
    return starts, ends


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position
