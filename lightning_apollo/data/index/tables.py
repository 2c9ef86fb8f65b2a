"""Metadata index of samples and media files: two tables in one folder.

INDEX/media.parquet     one row for each file and what annotations call it, in the order of their first use
      samples.parquet   one row for each row of the manifests, source after source
      *.arrow           the same as it lies in memory, for processes to map; made from the Parquet files where missing
      next/             all four again, of a writer that was killed: whoever opens the index moves them into their place

index/build.py and index/merge.py write them, token_counts.py does arithmetic on them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightning_apollo.errors import UserError
from lightning_apollo.files import lock, write_atomically
from lightning_apollo.structures import SAMPLE_MODALITIES, MediaError, MediaInfo, Modality, SampleModality

FORMAT_VERSION = "4"
MODALITIES: tuple[Modality, ...] = ("image", "video")
MEDIA, SAMPLES = "media", "samples"

_NAME = pa.dictionary(pa.int32(), pa.string())
MEDIA_SCHEMA = pa.schema(
    {
        "path": pa.string(),  # below the source's root, as the root is written in the recipe
        "modality": _NAME,  # what the annotation calls it
        "duration_seconds": pa.float64(),
        "begin_seconds": pa.float64(),
        "width": pa.int32(),  # pixels, upright; 0 in this and all other numbers of a broken file
        "height": pa.int32(),
        "fps": pa.float64(),  # NaN: a still picture
        "codec": pa.string(),
        "num_frames": pa.int64(),
        "rotation_degrees": pa.int32(),  # 0, 90, 180 or 270, counter-clockwise, to the upright size above
        "clock_start_seconds": pa.float64(),  # where a player's clock reads 0, on the container's
        "is_mirrored": pa.bool_(),  # before it is turned
        "is_read_in_order": pa.bool_(),  # all of its frames are decoded, for no seek finds them
        "file_bytes": pa.int64(),  # -1: no such file
        "mtime_ns": pa.int64(),
        "error": pa.string(),  # null: it can be read
    }
)
SAMPLE_SCHEMA = pa.schema(
    {
        "source": _NAME,
        "manifest": _NAME,
        "row": pa.int32(),  # in its manifest, from 0
        "sample_id": pa.string(),
        "media": pa.list_(
            pa.struct(
                {
                    "media": pa.int32(),  # row of the other table
                    "begin_seconds": pa.float64(),  # NaN: from the first frame
                    "end_seconds": pa.float64(),  # NaN: to the last
                    "fps": pa.float64(),  # shown, as the annotation says; NaN: as the recipe samples
                    "max_frames": pa.int32(),  # shown at most; 0: as the recipe samples
                }
            )
        ),
        "ignored_keys": pa.list_(pa.string()),  # of the row, which data.unknown_keys=ignore passes over
        "num_turns": pa.int32(),
        "text_bytes": pa.int64(),  # UTF-8 of all turns
        "num_text_tokens": pa.int32(),  # null: counted with no tokenizer; see index_tokens.TextCounter
        "kind": _NAME,  # text | image | multi_image | video
        "is_stream": pa.bool_(),
        "error": pa.string(),  # null: neither the row nor one of its media is broken
        "error_media": pa.int32(),  # row of the other table that the error is about; -1: none
    }
)
SCHEMAS = {MEDIA: MEDIA_SCHEMA, SAMPLES: SAMPLE_SCHEMA}


class IndexFileError(UserError, ValueError):
    """An index that is not there or cannot be used; one line that says what to do."""


@dataclass(frozen=True)
class MediaUse:
    """A file of a sample, as a MediaPart shows it."""

    media: int  # row of the media table
    begin_seconds: float | None
    end_seconds: float | None
    fps: float | None
    max_frames: int | None


class MediaUses(NamedTuple):
    """Columns of the uses of files, (U,) each."""

    media: np.ndarray  # row of the media table
    begin_seconds: np.ndarray  # NaN: not cut
    end_seconds: np.ndarray
    fps: np.ndarray  # NaN: as the recipe samples
    max_frames: np.ndarray  # 0: as the recipe samples


@dataclass(frozen=True)
class SampleRow:
    """One row of the samples table."""

    source: str
    manifest: str
    row: int
    sample_id: str
    media: tuple[MediaUse, ...]
    ignored_keys: tuple[str, ...]
    num_turns: int
    text_bytes: int
    num_text_tokens: int | None
    kind: SampleModality
    is_stream: bool
    error: str | None
    error_media: int


class Index:
    """Both tables, mapped: processes share the pages of the files, and a row or column is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """IndexFileError where the folder holds no index, or one of another format."""
        self.folder = folder
        self.media, self.samples = _open(folder)
        metadata = self.samples.schema.metadata
        self.fingerprint = metadata[b"fingerprint"].decode()  # of the manifests' content and the facts of the media
        self.text_identity = metadata[b"text"].decode()  # with what text tokens were counted; empty: they were not
        self.sources: tuple[str, ...] = tuple(json.loads(metadata[b"sources"]))
        self.manifests: tuple[str, ...] = tuple(json.loads(metadata[b"manifests"]))
        self.manifest_digests: dict[str, str] = json.loads(metadata[b"manifest_digests"])  # name -> hash of the content

    def __len__(self) -> int:
        """Samples, broken ones included."""
        return self.samples.num_rows

    def __reduce__(self) -> tuple[type[Index], tuple[Path]]:
        return Index, (self.folder,)  # a process that is handed an index maps the files itself

    def __getitem__(self, number: int) -> SampleRow:
        """A sample by its row in the samples table."""
        (row,) = self.samples.slice(range(len(self))[number], 1).to_pylist()
        media = [
            MediaUse(
                one["media"],
                *(none_if_nan(one[name]) for name in ("begin_seconds", "end_seconds", "fps")),
                max_frames=one["max_frames"] or None,
            )
            for one in row["media"]
        ]
        return SampleRow(**{**row, "media": tuple(media), "ignored_keys": tuple(row["ignored_keys"])})

    def media_info(self, number: int) -> MediaInfo:
        """Facts of a file by its row in the media table; MediaError where it is broken."""
        (row,) = self.media.slice(range(self.media.num_rows)[number], 1).to_pylist()
        if row["error"] is not None:
            raise MediaError(row["path"], row["error"])
        del row["file_bytes"], row["mtime_ns"], row["error"]
        return MediaInfo(**{**row, "fps": none_if_nan(row["fps"])})

    def sample_column(self, name: str) -> np.ndarray:
        """A column of numbers of the samples, (S,), without a copy (but for `is_stream`).

        For `source` and `manifest`, places in `sources` and `manifests`; for `kind`, in SAMPLE_MODALITIES.
        """
        return _as_numpy(self.samples.column(name))

    def media_column(self, name: str) -> np.ndarray:
        """The same for the media; `modality` is a place in MODALITIES."""
        return _as_numpy(self.media.column(name))

    def media_uses(self) -> tuple[MediaUses, np.ndarray]:
        """Every use of a file, flat, and (S+1,) where each sample's uses begin; all without a copy."""
        lists = _one_chunk(self.samples.column("media"))
        return MediaUses(*(lists.values.field(name).to_numpy() for name in MediaUses._fields)), lists.offsets.to_numpy()

    def is_broken(self) -> np.ndarray:
        """(S,) bool: the row or one of its media cannot be read."""
        return self.samples.column("error").is_valid().to_numpy()


def dictionary(values: pa.Array | pa.ChunkedArray, names: tuple[str, ...]) -> pa.DictionaryArray:
    """The strings as places in `names`, all of which are kept in this order."""
    places = pc.call_function("index_in", [values.cast(pa.string())], pc.SetLookupOptions(pa.array(names, pa.string())))
    places = places.combine_chunks() if isinstance(places, pa.ChunkedArray) else places
    return pa.DictionaryArray.from_arrays(places, pa.array(names, pa.string()))


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write both tables in both forms, for a caller that holds the folder's lock.

    A kill at any moment leaves the old index or the new one: the files get their names together.
    """
    for left in folder.glob(f"{_NEXT}.*.partial"):  # by writers that were killed
        shutil.rmtree(left)
    partial = folder / f"{_NEXT}.{uuid4().hex}.partial"
    partial.mkdir()
    for name, table in tables.items():
        pq.write_table(table, partial / f"{name}.parquet", compression="zstd")
        _write_arrow(table, partial / f"{name}.arrow")
    partial.rename(folder / _NEXT)
    settle_files(folder)


def settle_files(folder: Path) -> None:
    """Put every file of an index into its place, for a caller that holds the folder's lock.

    Those of a writer that was killed after its last file; and Arrow files, where they are missing or another table's.
    """
    if (folder / _NEXT).is_dir():
        for file in sorted((folder / _NEXT).iterdir()):
            file.replace(folder / file.name)
        (folder / _NEXT).rmdir()
    for name in SCHEMAS:
        path, parquet = folder / f"{name}.arrow", folder / f"{name}.parquet"
        if _is_readable(parquet) and not _is_of(path, parquet):
            with write_atomically(path) as partial:
                _write_arrow(_read_parquet(parquet, name), partial)


_NEXT = "next"


def _open(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Both tables; waits for a writer that has the files in hand."""
    if not (folder / _NEXT).is_dir():
        parquets = [folder / f"{name}.parquet" for name in (MEDIA, SAMPLES)]
        for parquet in parquets:
            _check(parquet)
        if all(_is_of(parquet.with_suffix(".arrow"), parquet) for parquet in parquets):
            media, samples = _map(folder, MEDIA), _map(folder, SAMPLES)
            if _same(media, samples):
                return media, samples
    with lock(folder / "lock"):
        settle_files(folder)
        media, samples = _map(folder, MEDIA), _map(folder, SAMPLES)
    if not _same(media, samples):
        raise IndexFileError(f"{folder}: writing it was cut short: run `lightning-apollo data index` again")
    return media, samples


def _same(media: pa.Table, samples: pa.Table) -> bool:
    return media.schema.metadata[b"fingerprint"] == samples.schema.metadata[b"fingerprint"]


def _check(parquet: Path) -> None:
    """IndexFileError unless a table of this version lies there."""
    if not parquet.is_file():
        raise IndexFileError(
            f"{parquet.parent}: no index here ({parquet.name}): make one with `lightning-apollo data index`"
        )
    try:
        written = pq.read_metadata(parquet).metadata or {}
    except pa.ArrowException as error:
        raise IndexFileError(f"{parquet}: no Parquet file: remove {parquet.parent} and make it anew") from error
    if written.get(b"format_version") != FORMAT_VERSION.encode():
        raise IndexFileError(f"{parquet.parent}: an index of another version: remove it and make it anew")


def _is_readable(parquet: Path) -> bool:
    try:
        _check(parquet)
    except IndexFileError:
        return False
    return True


def _is_of(path: Path, parquet: Path) -> bool:
    """True if the Arrow file is there, and of the same table."""
    return path.is_file() and _fingerprint(path) == pq.read_metadata(parquet).metadata[b"fingerprint"]


def _map(folder: Path, name: str) -> pa.Table:
    _check(folder / f"{name}.parquet")
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()


def _fingerprint(path: Path) -> bytes:
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        return reader.schema.metadata[b"fingerprint"]


def _read_parquet(path: Path, name: str) -> pa.Table:
    """The table with its names in their own order, which Parquet does not keep."""
    table = pq.read_table(path)
    metadata = table.schema.metadata
    names: dict[str, tuple[str, ...]] = {"modality": MODALITIES, "kind": SAMPLE_MODALITIES}
    if name == SAMPLES:
        names |= {f"{key}": tuple(json.loads(metadata[f"{key}s".encode()])) for key in ("source", "manifest")}
    columns = [
        dictionary(table.column(field.name), names[field.name]) if field.type == _NAME else table.column(field.name)
        for field in SCHEMAS[name]
    ]
    return pa.table(columns, schema=SCHEMAS[name].with_metadata(metadata))


def _write_arrow(table: pa.Table, path: Path) -> None:
    table = table.combine_chunks()  # one chunk, so that a column is one piece of memory
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _one_chunk(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = _one_chunk(column)
    if pa.types.is_dictionary(array.type):
        array = array.indices
    return array.to_numpy(zero_copy_only=False)


def nan_if_none(value: float | None) -> float:
    """A value for a column of floats, in which NaN stands for none."""
    return math.nan if value is None else value


def none_if_nan(value: float) -> float | None:
    """A value of such a column."""
    return None if math.isnan(value) else value
