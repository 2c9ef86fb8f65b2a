"""Roots of sources: which kind a recipe means, and paths that leave each of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from lightning_apollo.data.annotations.manifest import ManifestError, MissingManifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import RowError
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.data.storage.roots import FolderRoot, MediaRoot, ObjectRoot, ShardRoot, as_root, open_root
from tests.small_data import turns, write_rows


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard with a file, and a row that lies beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.jpg").write_bytes(b"picture")
    (tmp_path / "a.json").write_text(json.dumps({"image": "../a.jpg", "conversations": turns("<image>?", "A.")}))
    with tarfile.open(tmp_path / "000.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "a.jpg", "sub/a.jpg")
        archive.add(tmp_path / "a.json", "sub/a.json")
    return tmp_path / "000.tar"


def root_of(kind: str, shard: Path) -> MediaRoot:
    return open_root({"folder": str(shard.parent), "objects": "s3://films/part", "shards": str(shard)}[kind])


def test_the_name_of_a_root_says_its_kind(shard: Path) -> None:
    kinds = {"folder": FolderRoot, "objects": ObjectRoot, "shards": ShardRoot}
    for kind, expected in kinds.items():
        assert isinstance(root_of(kind, shard), expected)
    (shard.parent / "folder.tar").mkdir()
    assert isinstance(open_root(str(shard.parent / "folder.tar")), FolderRoot)
    assert as_root(Path("films")).address("a.mp4") == "films/a.mp4"
    with pytest.raises(StorageError, match=r"^a/\*\.tar\.gz: .*compressed"):
        open_root("a/*.tar.gz")


def test_addresses(shard: Path) -> None:
    assert FolderRoot("films").address("./sub/a.jpg") == "films/sub/a.jpg"
    for root in ("s3://films/part", "s3://films/part/"):
        assert ObjectRoot(root).address("./sub/../a.jpg") == "s3://films/part/a.jpg"
    assert root_of("shards", shard).address("./sub/a.jpg") == f"{shard}::sub/a.jpg@512+7"
    assert root_of("shards", shard).address("a.jpg") == f"{shard}::a.jpg@?"


@pytest.mark.parametrize("kind", ["folder", "objects", "shards"])
@pytest.mark.parametrize("path", ["../a.jpg", "sub/../../a.jpg", "/etc/a.jpg", "..", "../part2/a.jpg"])
def test_no_path_leaves_its_root(kind: str, path: str, shard: Path) -> None:
    with pytest.raises(RowError, match=r"^media path '.*' .*root"):
        root_of(kind, shard).check(path)


@pytest.mark.parametrize("kind", ["folder", "objects", "shards"])
@pytest.mark.parametrize("path", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "./a.jpg", "..a.jpg", "..sub/a.jpg"])
def test_paths_below_the_root_are_accepted(kind: str, path: str, shard: Path) -> None:
    root_of(kind, shard).check(path)


def test_a_row_that_leaves_its_shards_names_its_member(shard: Path) -> None:
    source = open_source("films", SourceConfig(["*.json"], str(shard)))
    assert len(source) == 1
    with pytest.raises(ManifestError) as caught:
        source[0]
    assert str(caught.value) == (
        f"*.json, sub/a.json in {shard}: media path '../a.jpg' leaves the data root {shard}: name a file below it"
    )


def test_a_manifest_is_looked_for_here_and_then_below_the_root(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    write_rows(tmp_path / "there" / "a.jsonl", [{"conversations": turns("Where?", "There.")}])
    monkeypatch.chdir(tmp_path / "here")
    source = open_source("text", SourceConfig(["a.jsonl"], str(tmp_path / "there")))
    assert source.manifests[0].address == str(tmp_path / "there" / "a.jsonl")
    write_rows(tmp_path / "here" / "a.jsonl", [{"conversations": turns("Where?", "Here.")}] * 2)
    assert len(open_source("text", SourceConfig(["a.jsonl"], str(tmp_path / "there")))) == 2
    for root, reason in ((str(tmp_path), "no such file"), (str(shard), f"{shard} has no member of this name")):
        with pytest.raises(MissingManifest, match=f"{reason}: correct the path of the manifest$"):
            open_source("text", SourceConfig(["none.jsonl"], root))
