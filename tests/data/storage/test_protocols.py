"""Protocols that a recipe may name and a row may not. Secrets that nothing holds."""

from __future__ import annotations

import json
import pickle
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.data.storage.protocols import StorageConfig, local_or_url, shown
from lightning_apollo.data.storage.roots import ObjectRoot, open_root
from lightning_apollo.errors import MediaError
from lightning_apollo.recipe.schema import RecipeError
from tests.small_data import turns, write_pictures, write_rows
from tests.small_recipe import recipe
from tests.web_server import web_server

ROW = {"conversations": turns("What is this?", "A text.")}
SECRET = "hunter2"
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
SECRETS = f"""
https://user:{SECRET}@h/p https://{SECRET}@h/p https://h/p?signature={SECRET} https://h/p?{SECRET}
https://h/p#token={SECRET} s3://key:{SECRET}@bucket/p s3://key:a/{SECRET}'@bucket/p az://c/p?sv=1&sig={SECRET}
abfs://c:{SECRET}@account/p sftp://user:{SECRET}@h/p simplecache::https://user:{SECRET}@h/p?a={SECRET} memory://{SECRET}@h
""".split()


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


@pytest.mark.parametrize("place", SECRETS)
def test_an_address_with_a_secret_is_refused_without_showing_it(place: str) -> None:
    for config in (
        {"manifests": [place]},
        {"manifests": ["a.jsonl"], "root": place},
        {"manifests": [f"{place}/a.tar"]},
    ):
        for kind in (SourceConfig, DataConfig):
            with pytest.raises(ValueError, match=r"leave it out|addresses inside") as caught:
                kind(**config)
            assert SECRET not in repr(caught.value)


def test_no_command_writes_a_secret_that_its_user_has_put_into_an_address(tmp_path: Path) -> None:
    place = f"https://user:{SECRET}@h/p?signature={SECRET}"
    said = []
    for words in ([f"data.root={place}", "data.manifests=[a.jsonl]"], [f"data.sources.text.root={place}"]):
        with pytest.raises(RecipeError, match="leave it out") as caught:
            recipe(tmp_path, *words)
        said.append(f"{caught.value!r} {caught.value}")
    (tmp_path / "bad.yaml").write_text(f"name: bad\nbase: [{tmp_path}/test.yaml]\ndata: {{root: '{place}'}}\n")
    commands = [
        ["data", "index", "a.jsonl", "--root", place],
        ["data", "scan", f"{place}/a.jsonl"],
        ["fit", f"{tmp_path}/bad.yaml"],
        ["fit", f"{tmp_path}/test.yaml", f"data.manifests=[{place}]"],
    ]
    for words in commands:
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0
        said.append(result.output)
    (tmp_path / "bad.yaml").unlink()
    said += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in said if SECRET in text]


def test_credentials_of_the_environment_are_used_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an index and a scan of a store that asks for them, of which one file is forbidden and one redirected to a signed URL."""
    media, written = tmp_path / "media", tmp_path / "written"
    written.mkdir()
    write_pictures(media, 3)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(written / "cache"))
    monkeypatch.chdir(written)
    with web_server(media, user=f"user:{SECRET}") as server:
        source = open_source("pictures", SourceConfig(["pictures.jsonl"], server.url))
        pickled = pickle.dumps(source)
        said = [
            CliRunner()
            .invoke(app, ["data", "index", "pictures.jsonl", "--root", server.url, "--output", "index", "--jobs", "0"])
            .output
        ]
        assert "3 files" in said[0]
        (media / "000.png").unlink()
        server.every_answer = "redirect"
        server.user = "user:another"
        with pytest.raises(MediaError) as caught:
            storage.open_address(f"{server.url}/001.png")
        assert caught.value.kind == "forbidden"
    captured = capfd.readouterr()
    said += [str(caught.value), repr(caught.value), captured.out, captured.err]
    assert "signature" not in said[1]
    files = [path for path in written.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert not [text for text in said if SECRET in text]
    assert SECRET.encode() not in pickled


def test_addresses_are_shown_without_user_and_query() -> None:
    text = f"403, url='https://u:{SECRET}@h:80/a.mp4?X-Signature={SECRET}&b=1' (s3://b/t-?.jsonl) https://{SECRET}@h/a"
    assert shown(text) == "403, url='https://h:80/a.mp4' (s3://b/t-?.jsonl) https://h/a"


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
