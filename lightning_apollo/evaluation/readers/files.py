"""Benchmark files found and parsed (JSON, CSV, Parquet with pictures inside, subtitles, media)."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from lightning_apollo.evaluation.question import BenchmarkError, Subtitle
from lightning_apollo.files import write_atomically

EXTRACTED = "extracted"  # folder below the benchmark's own, for pictures that were inside of Parquet files
VIDEO_ENDINGS = ("mp4", "mkv", "webm", "avi", "mov", "MP4")

_ROWS_AT_ONCE = 16  # a page of a document is a few megabytes
_TAG = re.compile(r"<[^>]+>|\{\\[^}]*\}")
_SRT_TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")

BenchmarkRow = dict[str, Any]


def find_files(folder: Path, *patterns: str) -> list[Path]:
    """The files that match the first pattern which any file matches, sorted; BenchmarkError where none does."""
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    raise BenchmarkError(f"{folder} has no {' and no '.join(patterns)}: name the folder with the published files")


def read_json(folder: Path, *patterns: str) -> Any:
    """Contents of the first JSON file that matches."""
    path = find_files(folder, *patterns)[0]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{path}: {error}: fetch the file again") from error


def read_json_lines(folder: Path, *patterns: str) -> Iterator[Any]:
    """Contents of each line of the first file that matches."""
    path = find_files(folder, *patterns)[0]
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    yield json.loads(line)
            except ValueError as error:
                raise BenchmarkError(f"{path}:{number}: {error}: fetch the file again") from error


def read_csv(folder: Path, *patterns: str) -> Iterator[dict[str, str]]:
    """The rows of the first CSV file that matches, by the names in its first line."""
    with find_files(folder, *patterns)[0].open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def read_parquet(folder: Path, *patterns: str, pictures: Sequence[str] = ()) -> Iterator[BenchmarkRow]:
    """The rows of all files that match, a few in memory at a time.

    The columns `pictures` hold {"bytes", "path"} there, as the datasets library writes images, and paths relative to
    `folder` here (None where there is none): the pictures are written to files of their own once.
    """
    for path in find_files(folder, *patterns):
        table = pq.ParquetFile(path)
        names = set(table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield row | {name: _extracted(row[name], folder) for name in pictures if name in names}


def _extracted(picture: BenchmarkRow | None, folder: Path) -> str | None:
    """The path of a picture's file, named by its content, so that no name can lead elsewhere or be taken twice."""
    if picture is None or picture.get("bytes") is None:
        return None
    digest = hashlib.blake2b(picture["bytes"], digest_size=16).hexdigest()
    path = folder / EXTRACTED / digest[:2] / f"{digest}.img"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path) as partial:
                partial.write_bytes(picture["bytes"])
        except OSError as error:
            raise BenchmarkError(f"{path}: {error.strerror}: pictures of Parquet files are written there") from error
    return path.relative_to(folder).as_posix()


def find_media(folder: Path, places: Sequence[str], name: str, endings: Sequence[str] = VIDEO_ENDINGS) -> str:
    """The path of a file relative to `folder`: in the first of `places` that has it, under any of the endings.

    Where none has it, the path in the first place: asking about it then reports that it is missing.
    """
    names = [name] if name.rpartition(".")[2] in endings else []
    names += [f"{name}.{ending}" for ending in endings]
    candidates = [PurePosixPath(place, candidate).as_posix() for place in places for candidate in names]
    return next((path for path in candidates if (folder / path).is_file()), candidates[0])


def inside(folder: Path, name: str) -> Path:
    """The path of a file that an annotation names; BenchmarkError where it leads out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BenchmarkError(f"{name!r} leads out of {folder}: fetch the benchmark's files again")
    return path


def read_srt(path: Path) -> tuple[Subtitle, ...]:
    """The subtitles of a SubRip file without their formatting, empty ones aside; none where there is no file."""
    if not path.is_file():
        return ()
    subtitles = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace")):
        times = _SRT_TIMES.search(block)
        if times is None:
            continue
        begin, end = (_seconds(times.groups()[first : first + 4]) for first in (0, 4))
        text = " ".join(_TAG.sub("", block[times.end() :]).split())
        if text:
            subtitles.append(Subtitle(begin, end, text))
    return tuple(subtitles)


def _seconds(fields: Sequence[str]) -> float:
    hours, minutes, seconds, milliseconds = map(int, fields)
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
