"""Protocols that a recipe may name and a row may not."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.data.storage.protocols import StorageConfig, local_or_url
from lightning_apollo.data.storage.roots import ObjectRoot, open_root
from lightning_apollo.errors import MediaError
from tests.small_data import turns, write_rows
from tests.web_server import web_server

ROW = {"conversations": turns("What is this?", "A text.")}
USUAL = [
    "s3://b/p",
    "gs://b",
    "gcs://b",
    "az://c/p",
    "abfs://c@account.dfs.core.windows.net/p",
    "http://h/p",
    "https://h:8000/p",
    "hf://datasets/a/b@main/p",
    "s3://b/train-?.jsonl",
    "http://[::1]:80/{0..9}.tar",
    "s3://b/a.tar::x::y.mp4@5+9",
    "odd::name",
]
CHAINED = [
    "simplecache::s3://b/p",
    "filecache::https://h/p",
    "zip://a::http://h/y.zip",
    "s3://b/p::http://h",
    "reference://",
    "reference://x/y",
    "dir::memory://x",
    "simplecache::s3://b/x.tar",
    "zip://a.tar::x@0+9",
    "blockcache://x",
    "tar://a::file:///etc/x.tar",
    "SimpleCache::s3://b/p",
    "generic://x",
]
PATHS = [
    "s3://films/a.png",
    "http://127.0.0.1:9/a.png",
    "memory://a.png",
    "memory:/a.png",
    "simplecache::memory://a.png",
    "file::memory://a.png",
    "http:a.png",
    "reference://a.png",
    "//127.0.0.1:9/a.png",
    "a.png?http://127.0.0.1:9",
    "hf:/a.png",
    "a.tar::a.png@0+9",
]


@pytest.mark.parametrize("place", USUAL)
def test_places_of_the_usual_protocols_stay_as_they_are(place: str) -> None:
    assert local_or_url(place) == place


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    write_rows(folder / "a.jsonl", [ROW])
    assert local_or_url("file:///a%20b") == local_or_url("file://localhost/a%20b") == "/a b"
    assert local_or_url("S3://Bucket/p") == "s3://Bucket/p"
    for manifest, root in (
        ("a.jsonl", folder.as_uri()),
        (f"{folder.as_uri()}/a.jsonl", "."),
        ("*.jsonl", folder.as_uri()),
    ):
        source = open_source("text", SourceConfig([manifest], root))
        assert source.manifests[0].address == str(folder / "a.jsonl")
    with pytest.raises(StorageError, match="no folder of this machine"):
        local_or_url("file://elsewhere/a")


@pytest.mark.parametrize("protocol", ["memory", "ftp", "sftp", "git", "github", "data", "hdfs"])
def test_other_protocols_need_the_recipe_s_word(protocol: str) -> None:
    place = f"{protocol}://h/p"
    with pytest.raises(
        StorageError, match=rf"{protocol} is none of s3, .*allow it with data.storage.protocols=\[{protocol}\]"
    ):
        open_source("text", SourceConfig(["a.jsonl"], place))
    with pytest.raises(StorageError, match=f"{protocol} is none of"):
        open_source("text", SourceConfig([f"{place}/a.jsonl"]))
    assert local_or_url(place, [protocol]) == place


@pytest.mark.parametrize("place", CHAINED)
def test_addresses_inside_addresses_are_refused_everywhere(place: str) -> None:
    with pytest.raises(ValueError, match="addresses inside addresses are not read"):
        SourceConfig(["a.jsonl"], place)
    with pytest.raises(ValueError, match="addresses inside addresses are not read"):
        SourceConfig([place])
    with pytest.raises(ValueError, match="addresses inside addresses are not read"):
        DataConfig(root=place)
    with pytest.raises(StorageError, match="addresses inside addresses are not read"):
        open_root(place, also=["reference", "zip", "memory"])


@pytest.mark.parametrize("name", ["reference", "simplecache", "zip", "dir", "s3://", "", "A", "a::b"])
def test_no_recipe_allows_what_opens_other_addresses(name: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.storage\.protocols: "):
        StorageConfig([name])


def test_an_address_that_is_chained_opens_nothing() -> None:
    fsspec.filesystem("memory").pipe("/inside", b"content")
    for address in (
        "simplecache::memory://inside",
        "reference://x",
        "dir::memory://inside",
        "filecache::memory://inside",
    ):
        with pytest.raises((MediaError, StorageError)):
            storage.open_address(address)


@pytest.mark.parametrize("kind", ["folder", "store", "web", "shards"])
@pytest.mark.parametrize("path", PATHS)
def test_the_path_of_a_row_chooses_no_protocol(kind: str, path: str, tmp_path: Path) -> None:
    """It is refused, or a path below the root."""
    fsspec.filesystem("memory").pipe("/a.png", b"a secret of another store")
    with web_server(tmp_path) as server:
        roots = {
            "folder": str(tmp_path),
            "store": "memory://below",
            "web": server.url,
            "shards": str(tmp_path / "a.tar"),
        }
        manifest = write_rows(
            tmp_path / "a.jsonl", [{"image": path, "conversations": turns("<image>\nWhat?", "That.")}]
        )
        if kind == "shards":
            tarfile.open(tmp_path / "a.tar", "w").close()
        source = open_source("source", SourceConfig([str(manifest)], roots[kind]), protocols=["memory"])
        try:
            (part,) = source[0].media
        except ManifestError:
            return
        address = source.root.address(part.path)
        assert address.startswith(roots[kind])
        with pytest.raises(MediaError) as caught:
            storage.open_address(address).read()
        assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("place", "module", "library"),
    [
        ("gs://b", "gcsfs", "gcsfs"),
        ("gcs://b", "gcsfs", "gcsfs"),
        ("az://c", "adlfs", "adlfs"),
        ("abfs://c", "adlfs", "adlfs"),
        ("http://h", "aiohttp", "aiohttp"),
        ("https://h", "aiohttp", "aiohttp"),
        ("s3://b", "s3fs", "s3fs"),
    ],
)
def test_a_missing_library_is_named_with_its_command(
    place: str, module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = place.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for name in ("s3", "http", "https"):
        monkeypatch.delitem(_registry, name, raising=False)
    expected = rf"^data on {protocol}:// needs {library}: pip install .*$"
    for manifest, root in (("a.jsonl", place), (f"{place}/a.jsonl", "."), ("a.jsonl", f"{place}/a.tar")):
        with pytest.raises(StorageError, match=expected):
            open_source("text", SourceConfig([manifest], root))


def test_a_store_that_nobody_registered_is_named() -> None:
    with pytest.raises(StorageError, match=r"^data on nosuch://: register a store of this name with fsspec$"):
        open_source("text", SourceConfig(["a.jsonl"], "nosuch://a"), protocols=["nosuch"])


def test_roots_of_the_usual_stores_are_objects_of_one_string() -> None:
    root = open_root("s3://films/part")
    assert root == ObjectRoot("s3://films/part")
    assert json.dumps(root.address("a.mp4")) == '"s3://films/part/a.mp4"'
