"""Objects as files: refusals, losses and silence of a store. Other processes, a missing library."""

from __future__ import annotations

import hashlib
import http.server
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.registry import _registry
from s3fs.core import S3File

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.decoder import open_decoder
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import blocks, faults
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.structures import MediaError
from tests.media_files import h264, write_clip
from tests.s3 import BUCKET, aws_environment, put, s3_server

CONTENT = os.urandom(3 * 2**20)


@pytest.fixture
def _server() -> Iterator[None]:
    with s3_server():
        yield


class _Refuses(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def test_a_store_that_refuses_is_a_media_error_with_the_fix() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with (
            aws_environment(f"http://127.0.0.1:{server.server_port}"),
            pytest.raises(MediaError, match=r"\(.*\):.*AWS") as caught,
        ):
            media.probe("s3://films/a.mp4", "video")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_store_that_is_not_there_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)
    with (
        aws_environment("http://127.0.0.1:9"),
        pytest.raises(MediaError, match=r"store.*\(Endpoint"),
    ):
        media.probe("s3://films/a.mp4", "video")


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with aws_environment("http://127.0.0.1:9"):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(MediaError, match=r"AWS_ACCESS_KEY_ID.*AWS_SECRET_ACCESS_KEY"):
            media.probe("s3://films/a.mp4", "video")


def test_a_store_that_stops_in_the_middle_of_a_film_is_a_media_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error crosses the decoder as it is, and is not taken for a corrupt film."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16 * 2**10)
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)
    film = write_clip(tmp_path / "a.mp4", 400, 10, *h264())
    with s3_server() as server:
        film_address = put("a.mp4", film.read_bytes())
        shard_address = put("a.tar", bytes(512) + film.read_bytes())
        addresses = [film_address, storage.member_address(shard_address, "a.mp4", 512, film.stat().st_size)]
        files = [storage.open_media(address) for address in addresses]
        server.stop()
        for address, file in zip(addresses, files, strict=True):
            with pytest.raises(MediaError, match=r"store.*\(\w+") as caught:
                open_decoder(address, file, 1)
            assert caught.value.path == address


@pytest.mark.usefixtures("_server")
def test_an_object_that_is_replaced_while_it_is_read_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**20)
    with storage.open_address(put("a.bin", CONTENT)) as file:
        assert file.read(10) == CONTENT[:10]
        put("a.bin", bytes(len(CONTENT)))
        file.seek(2 * 2**20)
        with pytest.raises(MediaError, match=r"a\.bin.*\(FileExpired"):
            file.read(10)


@pytest.mark.usefixtures("_server")
def test_few_blocks_are_kept_and_none_is_fetched_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**20)
    monkeypatch.setattr(blocks, "KEPT_BYTES", 2 * 2**20)
    address = put("a.bin", CONTENT)
    fetched: list[tuple[int, int]] = []
    fetch = S3File._fetch_range
    monkeypatch.setattr(
        "s3fs.core.S3File._fetch_range", lambda self, *span: (fetched.append(span), fetch(self, *span))[1]
    )
    with storage.open_address(address) as file:
        for place in (2 * 2**20 + 5, 2 * 2**20, 0, 2**20, 2 * 2**20):
            file.seek(place)
            assert file.read(7) == CONTENT[place : place + 7]
    assert [begin // 2**20 for begin, _ in fetched] == [2, 0, 1, 2]  # block 2 had gone for blocks 0 and 1
    assert all(end - begin <= 2**20 for begin, end in fetched)


def _digest(address: str) -> bytes:
    with storage.open_address(address) as file:
        return hashlib.file_digest(file, "sha256").digest()


@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_another_process_reads_too(start: str) -> None:
    """A fork inherits connections that are in use; it must make its own."""
    address = put("a.bin", CONTENT)
    expected = hashlib.sha256(CONTENT).digest()
    with storage.open_address(address) as file:
        file.read(10)
        with multiprocessing.get_context(start).Pool(2) as pool:
            assert pool.map_async(_digest, [address] * 4).get(timeout=60) == [expected] * 4
        assert file.read(5) == CONTENT[10:15]
    assert _digest(address) == expected


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, "s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"s3://.*s3fs.*pip install 's3fs>=[\d.]+'$"):
        open_source("films", SourceConfig(["a.jsonl"], f"s3://{BUCKET}"))


@pytest.mark.usefixtures("_server")
def test_patterns_of_manifests_stand_for_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their addresses or below the root, with the values of braces in their order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, number in (("b", 1), ("a", 2), ("c", 3)):
        put(f"rows/train-{name}.jsonl", b'{"conversations": []}\n' * number)
    root = f"s3://{BUCKET}/rows"
    for pattern in ("train-*.jsonl", f"{root}/train-*.jsonl", "train-[a-c].jsonl", f"{root}/train-?.jsonl"):
        opened = open_source("films", SourceConfig([pattern], root))
        assert [len(manifest) for manifest in opened.manifests] == [2, 1, 3]
    for pattern in ("train-{b,c,a}.jsonl", f"{root}/train-{{b,c,a}}.jsonl"):
        assert [len(manifest) for manifest in open_source("films", SourceConfig([pattern], root)).manifests] == [
            1,
            3,
            2,
        ]
    with pytest.raises(ManifestError, match=r"none-\*\.jsonl: no such object: correct the path of the manifest"):
        open_source("films", SourceConfig(["none-*.jsonl"], root))
