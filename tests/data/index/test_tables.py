"""Tables of an index: rows, columns without copies and memory of a process that opens it. Refused files."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.tables import (
    FORMAT_VERSION,
    MEDIA_SCHEMA,
    SAMPLE_SCHEMA,
    Index,
    IndexFileError,
    dictionary,
    write_tables,
)
from lightning_apollo.data.media import video as media
from lightning_apollo.data.source import open_sources
from lightning_apollo.structures import MediaError
from tests.media_files import h264, write_clip
from tests.small_data import turns, write_pictures, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, one of them broken, and a clip whose first frame comes at 3.5 s."""
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 3, broken=[1])
    write_clip(folder / "late.mkv", 20, 10, *h264(), "-output_ts_offset", 3.5)
    rows = [{"video": "late.mkv", "start_time": 0.5, "conversations": turns("<video>?", "a")}]
    write_rows(folder / "films.jsonl", [*rows, {"conversations": turns("Why?", "Because.")}])
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    names = ("films", "pictures")
    sources = {name: SourceConfig([str(folder / f"{name}.jsonl")], str(folder)) for name in names}
    return build_index(open_sources({**sources}, ()), folder / "index", jobs=0)


def test_rows_and_columns(index: Index, folder: Path) -> None:
    assert len(index) == 5
    assert index.sources == ("films", "pictures")
    assert [index.sources[place] for place in index.sample_column("source")] == [*["films"] * 2, *["pictures"] * 3]
    row = index[0]
    assert (row.source, row.manifest, row.row, row.sample_id) == (
        "films",
        str(folder / "films.jsonl"),
        0,
        "films.jsonl:1",
    )
    assert [(use.begin_seconds, use.end_seconds) for use in row.media] == [(0.5, None)]
    assert index[-1].sample_id == "pictures.jsonl:3"
    assert [index[number].kind for number in range(5)] == ["video", "text", "image", "image", "image"]
    (numbers, begins, ends, _, _), offsets = index.media_uses()
    assert (numbers.tolist(), offsets.tolist()) == ([0, 1, 2, 3], [0, 1, 1, 2, 3, 4])
    assert (begins[0], np.isnan(begins[1:]).all(), np.isnan(ends).all()) == (0.5, True, True)
    with pytest.raises(IndexError):
        index[5]


def test_media_are_what_a_probe_says(index: Index, folder: Path) -> None:
    assert index.media_info(0) == media.probe(folder / "late.mkv", "video")
    assert index.media_info(1) == media.probe(folder / "000.png", "image")
    with pytest.raises(MediaError, match=r"001\.png.*picture"):
        index.media_info(2)
    assert index.media_column("modality").tolist() == [1, 0, 0, 0]
    assert index.media_column("file_bytes")[0] == (folder / "late.mkv").stat().st_size


def test_columns_are_views_of_the_file(index: Index) -> None:
    for name in ("row", "text_bytes", "num_turns", "source", "kind"):
        column = index.sample_column(name)
        assert not column.flags.writeable  # memory of the mapped file, not of ours
        assert column.base is not None
    assert not index.media_column("duration_seconds").flags.owndata


def test_the_mapped_form_is_made_again_from_parquet(index: Index, tmp_path: Path) -> None:
    for name in ("media.parquet", "samples.parquet"):
        shutil.copy(index.folder / name, tmp_path / name)
    again = Index(tmp_path)
    assert again.fingerprint == index.fingerprint
    for name in ("media.arrow", "samples.arrow"):
        assert (tmp_path / name).read_bytes() == (index.folder / name).read_bytes()


def test_parquet_stands_alone(index: Index) -> None:
    """Tables for other readers: names as strings, nulls where nothing is wrong."""
    table = pq.read_table(index.folder / "samples.parquet").to_pylist()
    assert [row["source"] for row in table] == [*["films"] * 2, *["pictures"] * 3]
    assert [row["error"] is None for row in table] == [True, True, True, False, True]
    assert table[0]["media"][0]["media"] == 0


def test_an_index_travels_as_its_folder(index: Index) -> None:
    data = pickle.dumps(index)
    assert len(data) < 400
    assert pickle.loads(data)[3] == index[3]


def test_what_is_no_index_is_refused_in_one_line(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=r"`lightning-apollo.*index`"):
        Index(tmp_path)
    for name in ("media.parquet", "samples.parquet"):
        table = pq.read_table(index.folder / name)
        pq.write_table(table.replace_schema_metadata({"format_version": "0"}), tmp_path / name)
    with pytest.raises(IndexFileError, match="version"):
        Index(tmp_path)
    (tmp_path / "media.parquet").write_text("text")
    with pytest.raises(IndexFileError, match=r"\bParquet\b"):
        Index(tmp_path)


def test_tables_of_two_calls_do_not_go_together(index: Index, tmp_path: Path) -> None:
    shutil.copytree(index.folder, tmp_path / "index")
    table = pq.read_table(tmp_path / "index" / "media.parquet")
    metadata = {**table.schema.metadata, b"fingerprint": b"another"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "index" / "media.parquet")
    with pytest.raises(IndexFileError, match="cut short"):
        Index(tmp_path / "index")


def write_large(folder: Path, num_rows: int) -> None:
    """An index of one video and a text for each row, all made up."""
    numbers = np.arange(num_rows)
    metadata = {"format_version": FORMAT_VERSION, "fingerprint": "f", "text": ""}
    metadata |= {"sources": json.dumps(["one"]), "manifests": json.dumps(["one.jsonl"]), "manifest_digests": "{}"}
    videos = {
        "duration_seconds": 10.0,
        "begin_seconds": 0.0,
        "width": 1280,
        "height": 720,
        "fps": 25.0,
        "rotation_degrees": 0,
        "clock_start_seconds": 0.0,
        "is_mirrored": False,
        "is_read_in_order": False,
    }
    columns = {
        "path": [f"videos/some/longer/folder/{n:09d}.mp4" for n in numbers],
        "modality": dictionary(pa.array(["video"] * num_rows), ("image", "video")),
        "codec": ["h264"] * num_rows,
        "error": pa.nulls(num_rows, pa.string()),
        **{name: np.full(num_rows, value) for name, value in videos.items()},
        **dict.fromkeys(("num_frames", "file_bytes", "mtime_ns"), numbers + 1),
    }
    media_table = pa.table([pa.array(columns[f.name], f.type) for f in MEDIA_SCHEMA], schema=MEDIA_SCHEMA)
    seconds = pa.array(np.full(num_rows, np.nan))
    uses = pa.StructArray.from_arrays(
        [pa.array(numbers, pa.int32()), seconds, seconds, seconds, pa.array(np.zeros(num_rows), pa.int32())],
        fields=list(SAMPLE_SCHEMA.field("media").type.value_type),
    )
    columns = {
        **{name: dictionary(pa.array([value] * num_rows), (value,))
           for name, value in (("source", "one"), ("manifest", "one.jsonl"), ("kind", "video"))},
        "row": numbers,
        "sample_id": [f"one.jsonl:{n + 1}" for n in numbers],
        "media": pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1), pa.int32()), uses),
        "ignored_keys": [[]] * num_rows,
        "num_turns": np.full(num_rows, 2),
        "text_bytes": numbers % 1000,
        "num_text_tokens": pa.nulls(num_rows, pa.int32()),
        "is_stream": [False] * num_rows,
        "error": pa.nulls(num_rows, pa.string()),
        "error_media": np.full(num_rows, -1),
    }  # fmt: skip
    samples = pa.table(
        [
            values if isinstance(values := columns[f.name], pa.Array) else pa.array(values, f.type)
            for f in SAMPLE_SCHEMA
        ],
        schema=SAMPLE_SCHEMA,
    )
    tables = {"media": media_table, "samples": samples}
    write_tables(folder, {name: table.replace_schema_metadata(metadata) for name, table in tables.items()})


def test_a_process_that_opens_a_million_rows_adds_little_memory(tmp_path: Path) -> None:
    """Measured with 200 thousand rows, of which a fifth of 50 MB may be a process's own."""
    write_large(tmp_path, 200_000)
    (tmp_path / "small").mkdir()
    write_large(tmp_path / "small", 1_000)
    program = """
import re, sys
from pathlib import Path
from lightning_apollo.data.index.tables import Index

def private_bytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"Anonymous: +(\\d+)", text)[1])

def read(folder, num_rows):
    index = Index(folder)
    rows = [index[number].text_bytes for number in range(0, num_rows, 1000)]
    infos = [index.media_info(number).width for number in range(0, num_rows, 1000)]
    total = int(index.sample_column("text_bytes").sum()) + int(index.media_uses()[0][0].sum())
    return index, total, sum(rows), sum(infos)

read(Path(sys.argv[1]) / "small", 1_000)  # what pyarrow imports when it is first asked is not the index's
before = private_bytes()
index, *sums = read(Path(sys.argv[1]), 200_000)
print(private_bytes() - before, *sums)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    private, total, rows, widths = map(int, done.stdout.split())
    assert private < 10e6
    assert total == sum(n % 1000 for n in range(200_000)) + sum(range(200_000))
    assert (rows, widths) == (0, 200 * 1280)
    assert (tmp_path / "media.arrow").stat().st_size + (tmp_path / "samples.arrow").stat().st_size > 30e6
