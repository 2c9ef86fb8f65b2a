"""Parquet and Arrow tables: rows with media inside them, opened by their address alone."""

from __future__ import annotations

import io
import pickle
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lightning_apollo.data.annotations.manifest import Manifest, ManifestError, check_manifest, read_manifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.scan import broken_rows
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import tables
from lightning_apollo.data.storage.address import EmbeddedAddress
from lightning_apollo.data.storage.roots import FolderRoot, ObjectRoot
from lightning_apollo.structures import MediaError
from tests.media_files import h264, read_number, write_clip

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _png(level: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, columns: dict[str, Any], row_group_size: int = 2) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=row_group_size)
    else:  # as Dataset.save_to_disk of `datasets` writes it
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=row_group_size)
    return path


def _read(path: Path) -> Manifest:
    return read_manifest(path, "source", path.parent)


def _level(address: str) -> int:
    return int(decode(probe(address, "image"), torch.zeros(1), (8, 8)).pixels[0, 0, 0, 0])


def _feature(*levels: int) -> list[dict[str, object]]:
    """Pictures as the feature Image of `datasets` stores them: huggingface/datasets, src/datasets/features/image.py."""
    return [{"bytes": _png(level), "path": f"{level}.png"} for level in levels]


COLUMNS: dict[str, Any] = {
    "messages": [TURNS] * 5,
    "images": [_feature(1, 2), _feature(3), [], None, _feature(4)],
    "image": [None, None, {"bytes": _png(5), "path": None}, {"bytes": None, "path": "outside.png"}, None],
}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_rows_show_the_pictures_inside_them(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8), (6, 0, 0)).save(tmp_path / "outside.png")
    manifest = pickle.loads(pickle.dumps(_read(_write(tmp_path / name, COLUMNS))))
    root = manifest.root
    levels = [[_level(root.address(part.path)) for part in conversation.media] for conversation in manifest]
    assert levels == [[1, 2], [3], [5], [6], [4]]
    assert manifest[1].media[0].path == f"{tmp_path / name}::row 2//images/0"
    assert manifest[2].sample_id == f"{name}:3"
    assert list(check_manifest(manifest)) == []


def test_an_arrow_file_with_an_index_of_its_batches_is_read_too(tmp_path: Path) -> None:
    path, table = tmp_path / "a.arrow", pa.table({"messages": [TURNS] * 3, "image": [_png(1), _png(2), None]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    assert [[_level(part.path) for part in row.media] for row in _read(path)] == [[1], [2], []]


def test_media_in_parts_of_a_turn_are_addresses_too(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Q", "image": None}, {"type": "image", "text": None, "image": _feature(7)[0]}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]
    manifest = _read(_write(tmp_path / "a.parquet", {"messages": [turns]}))
    assert [_level(part.path) for part in manifest[0].media] == [7]


def test_a_film_inside_a_row_decodes_as_the_file_does(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20, 10, *h264())
    feature = {"bytes": clip.read_bytes(), "path": "clip.mp4"}
    manifest = _read(_write(tmp_path / "a.parquet", {"messages": [TURNS], "videos": [[feature]]}))
    info = probe(manifest[0].media[0].path, "video")
    frames = decode(info, torch.tensor([0.5, 1.5], dtype=torch.float64), (48, 160))
    assert [read_number(frame) for frame in frames.pixels] == [5, 15]


def test_an_address_says_all_that_opening_takes(tmp_path: Path) -> None:
    address = _read(_write(tmp_path / "a.parquet", COLUMNS))[0].media[1].path
    tables._open_state.cache_clear()  # as in a new process
    assert storage.open_address(str(address)).read() == _png(2)
    assert not storage.is_file(address)
    assert storage.file_state(address) == storage.file_state(str(tmp_path / "a.parquet"))
    assert storage.name_of(address) == "a.parquet, row 1, images/1"


def test_text_of_a_row_never_becomes_such_an_address(tmp_path: Path) -> None:
    secret = _write(tmp_path / "secret.parquet", {"image": [_png(1)]})
    (root := tmp_path / "root").mkdir()
    (root / "link.parquet").symlink_to(secret)
    text = "link.parquet::row 1//image"
    manifest = read_manifest(_write(root / "a.parquet", {"messages": [TURNS], "image": [text]}), "source", root)
    address = manifest.root.address(manifest[0].media[0].path)
    assert type(manifest[0].media[0].path) is str
    assert storage.is_file(address)
    with pytest.raises(MediaError, match="no such file"):
        storage.open_address(address)
    assert ObjectRoot("s3://bucket").address(text) == "s3://bucket/link.parquet::row 1/image"
    inside = EmbeddedAddress(f"{secret}::row 1//image")
    assert FolderRoot(str(root)).address(inside) == inside
    FolderRoot(str(root)).check(inside)


def test_reading_rows_and_pictures_takes_no_more_memory_than_one_of_them(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    pictures = [noise.bytes(2**20) for _ in range(48)]
    path = _write(tmp_path / "a.parquet", {"messages": [TURNS] * 48, "image": pictures}, row_group_size=48)
    before = pa.total_allocated_bytes()
    manifest = _read(path)
    tracemalloc.start()
    try:
        addresses = [row.media[0].path for row in manifest]
        rows_peak = tracemalloc.get_traced_memory()[1]
        assert [storage.open_address(addresses[row]).read() for row in (40, 3)] == [pictures[40], pictures[3]]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 2**20, "Arrow maps the table"
    assert rows_peak < 2**20
    assert peak < 6 * 2**20
    assert len(pickle.dumps(manifest)) < 1000


def test_a_table_that_changes_is_copied_again_and_its_digest_is_another(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", {"messages": [TURNS], "image": [_png(1)]})
    first = _read(path)
    digest = first.digest()
    _write(path, {"messages": [TURNS] * 2, "image": [_png(2), _png(30)]})
    second = _read(path)
    assert [_level(row.media[0].path) for row in second] == [2, 30]
    assert second.digest() != digest


def test_index_and_scan_name_the_row_of_broken_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate((_png(1), b"no picture", b"")):
        _write(tmp_path / f"train-{number}.parquet", {"messages": [TURNS], "image": [content]})
    source = open_source("tables", SourceConfig(["train-*.parquet"]))
    assert [manifest.name for manifest in source.manifests] == [f"train-{number}.parquet" for number in range(3)]
    index = build_index([source], tmp_path / "index", jobs=0)
    assert [row.path for row in broken_rows(index)] == [
        "train-1.parquet::row 1//image",
        "train-2.parquet::row 1//image",
    ]
    assert index.media["path"][0].as_py() == "train-0.parquet::row 1//image"


def test_a_pattern_that_matches_nothing_and_broken_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"train-\*\.parquet: .*file"):
        open_source("tables", SourceConfig(["train-*.parquet"], root=str(tmp_path)))
    with pytest.raises(ManifestError, match="no such file: correct the path"):
        _read(tmp_path / "a.arrow")
    whole = _write(tmp_path / "whole.parquet", COLUMNS).read_bytes()
    for name, content in (("a.parquet", whole[: len(whole) // 2]), ("b.parquet", b"[]"), ("c.arrow", b"not a table")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match=rf"{name}: .*\.{name[2:]} file \("):
            _read(tmp_path / name)
    with pytest.raises(MediaError, match=r"table.*cell"):
        storage.open_address(f"{tmp_path}/whole.parquet::row 1//nothing")


def test_patterns_stand_for_files_here_or_below_the_root(tmp_path: Path) -> None:
    (root := tmp_path / "root [1]").mkdir()
    for name in ("b-1.arrow", "b-0.arrow", "a[0].arrow"):
        _write(root / name, {"messages": [TURNS], "image": [_png(1)]})
    for pattern, names in (("b-*.arrow", ["b-0.arrow", "b-1.arrow"]), ("a[0].arrow", ["a[0].arrow"])):
        assert [manifest.name for manifest in open_source("s", SourceConfig([pattern], str(root))).manifests] == names


def test_tables_lie_in_shards_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        archive.add(_write(tmp_path / "a.parquet", COLUMNS), "a.parquet")
        archive.add(_write(tmp_path / "a.arrow", COLUMNS), "a.arrow")
    for name in ("a.parquet", "a.arrow"):
        source = open_source("shards", SourceConfig([name], str(tmp_path / "0.tar")))
        assert [_level(source.root.address(part.path)) for part in source[0].media] == [1, 2]


def test_the_copy_holds_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 2**12)
    columns = {"messages": [TURNS] * 64, "image": [np.random.default_rng(row).bytes(2**10) for row in range(64)]}
    _read(_write(tmp_path / "a.parquet", columns, row_group_size=64))
    copy = next((tmp_path / "cache").rglob("*.arrow"))
    with pa.memory_map(str(copy)) as file:
        reader = pa.ipc.open_file(file)
        assert reader.num_record_batches >= 16
