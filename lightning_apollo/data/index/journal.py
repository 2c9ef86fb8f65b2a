"""Journals of probes. What is found out is written down at once, so that a kill costs what was in hand alone.

A line is a record in JSON: the facts of a file as a list, anything else as a mapping.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from lightning_apollo.data.media.media_facts import MediaKey, ProbeResult
from lightning_apollo.structures import MediaInfo

_TAIL_BYTES = 2**16


def records(path: Path, begins: str = "") -> Iterator[Any]:
    """Every whole record of a journal, or those whose line begins so; none where there is no journal.

    The last one may have been cut short, by a kill or by a disk that went away; what is no JSON counts as not written.
    """
    for _, line in lines(path, begins):
        record = record_of(line)
        if record is not None:
            yield record


def lines(path: Path, begins: str = "") -> Iterator[tuple[int, bytes]]:
    """The lines that hold them, each with the byte where it begins."""
    if not path.is_file():
        return
    begin, wanted = 0, begins.encode()
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.startswith(wanted):
                yield begin, line
            begin += len(line)


@contextmanager
def open_journal(path: Path) -> Iterator[TextIO]:
    """The journal, open for further records, without one that was cut short at its end."""
    with path.open("ab+") as file:
        file.truncate(_whole_bytes(file))
    with path.open("a") as journal:
        yield journal


def write_record(journal: TextIO, record: Any) -> None:
    """Write a record so that it outlives this process."""
    journal.write(f"{json.dumps(record)}\n")
    journal.flush()


def media_record(key: MediaKey, facts: ProbeResult) -> list[Any]:
    """The facts of a file as a record."""
    return [*key, *facts[1:], facts.info and asdict(facts.info)]


def media_of_record(record: list[Any]) -> tuple[MediaKey, ProbeResult]:
    """The file and the facts of a record."""
    path, modality, *state, info = record
    return MediaKey(path, modality), ProbeResult(info and MediaInfo(**info), *state)


def record_of(line: bytes) -> Any:
    """The record of a line, None for what is none."""
    try:
        record = json.loads(line)
    except ValueError:  # the text of two writers, or zeros where a machine lost its power
        return None
    return record if isinstance(record, list | dict) else None


def _whole_bytes(file: Any) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, 2)
    while end:
        begin = max(0, end - _TAIL_BYTES)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + place + 1
        end = begin
    return 0
