"""Files of web servers in parts and whole, and faults that pass or stay."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.readiness import require_media
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import blocks, faults, web
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.data.storage.protocols import join
from lightning_apollo.data.storage.roots import open_root
from lightning_apollo.errors import MediaError
from tests.small_data import turns, write_pictures, write_rows
from tests.web_server import WebServer, web_server

CONTENT = os.urandom(3 * 2**20 + 17)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with web_server(tmp_path) as server:
        yield server


def read_all_over(address: str) -> None:
    """Read at forty places, in no order, and compare."""
    chance = random.Random(1)
    with storage.open_address(address) as file:
        for _ in range(40):
            place, size = chance.randrange(len(CONTENT)), chance.choice([1, 100, 300_000])
            file.seek(place)
            assert file.read(size) == CONTENT[place : place + size]
        file.seek(-5, os.SEEK_END)
        assert file.read() == CONTENT[-5:]
        file.seek(0)
        assert file.read() == CONTENT


@pytest.mark.parametrize("has_etags", [True, False])
def test_any_place_of_a_file_is_read(server: WebServer, has_etags: bool) -> None:
    server.has_etags = has_etags
    read_all_over(f"{server.url}/a.bin")
    assert storage.file_state(f"{server.url}/a.bin")[0] == len(CONTENT)


def test_what_is_not_asked_for_is_not_fetched(server: WebServer) -> None:
    with storage.open_address(f"{server.url}/a.bin") as file:
        file.read(10)
        file.seek(2 * 2**20)
        file.read(10)
    assert server.num_bytes == 1 + 2 * blocks.BLOCK_BYTES  # one byte to learn the size


@pytest.mark.parametrize("tells_sizes", [True, False])
def test_a_server_without_parts_gives_the_whole_once(server: WebServer, tells_sizes: bool) -> None:
    server.has_ranges, server.tells_sizes = False, tells_sizes
    read_all_over(f"{server.url}/a.bin")
    assert [span for _, span in server.requests] == ["bytes=0-0", ""]


@pytest.mark.parametrize("tells_sizes", [True, False])
def test_a_file_too_large_to_come_whole_is_refused(
    server: WebServer, tells_sizes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "WHOLE_BYTES", 2**20)
    server.has_ranges, server.tells_sizes = False, tells_sizes
    with pytest.raises(
        MediaError, match=r"gives no parts of files, .* above the limit of 1 MiB: use a server that"
    ) as caught:
        storage.open_address(f"{server.url}/a.bin")
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_empty_file_is_empty(server: WebServer, has_ranges: bool) -> None:
    server.has_ranges = has_ranges
    (server.folder / "empty.mp4").touch()
    assert storage.open_address(f"{server.url}/empty.mp4").read() == b""
    assert storage.file_state(f"{server.url}/empty.mp4")[0] == 0
    with pytest.raises(MediaError, match="empty file"):
        storage.open_media(f"{server.url}/empty.mp4")


@pytest.mark.parametrize(
    "faults_before", [[503, 503], [None, 503, 503], [None, "cut"], [None, "cut", 500, "cut"], [429, None, 408]]
)
def test_faults_that_pass_cost_time_alone(server: WebServer, faults_before: list[int | str | None]) -> None:
    server.answers = list(faults_before)
    with storage.open_address(f"{server.url}/a.bin") as file:
        assert file.read() == CONTENT
    assert server.answers == []


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize(
    ("answer", "kind", "num_requests"),
    [
        (404, "missing", 1),
        (410, "missing", 1),
        (403, "forbidden", 1),
        (401, "forbidden", 1),
        (400, "unavailable", 1),
        (503, "unavailable", 4),
        (504, "slow", 4),
    ],
)
def test_faults_that_stay_have_their_kind(
    server: WebServer, answer: int, kind: str, num_requests: int, has_ranges: bool
) -> None:
    server.every_answer, server.has_ranges = answer, has_ranges
    with pytest.raises(MediaError) as caught:
        storage.open_address(f"{server.url}/a.bin")
    assert caught.value.kind == kind
    assert len(server.requests) == num_requests
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.kind, str(again)) == (kind, str(caught.value))
    assert "\n" not in str(again)
    assert storage.file_state(f"{server.url}/a.bin") == (-1, -1)


def test_a_file_that_always_comes_cut_short_is_broken(server: WebServer) -> None:
    with storage.open_address(f"{server.url}/a.bin") as file:
        server.every_answer = "cut"
        with pytest.raises(MediaError, match="cut short") as caught:
            file.read()
    assert caught.value.kind == "broken"


@pytest.mark.parametrize("has_etags", [True, False])
def test_a_file_that_changes_between_two_reads_is_broken(server: WebServer, has_etags: bool) -> None:
    """By its ETag, or where there is none by its size."""
    server.has_etags = has_etags
    with storage.open_address(f"{server.url}/a.bin") as file:
        file.read(10)
        (server.folder / "a.bin").write_bytes(bytes(len(CONTENT) + (not has_etags)))
        file.seek(2 * 2**20)
        with pytest.raises(MediaError, match="it changed while it was read") as caught:
            file.read(10)
    assert caught.value.kind == "broken"


def test_no_read_waits_for_ever(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SECONDS_EACH", 0.2)
    with storage.open_address(f"{server.url}/a.bin") as file:
        server.seconds = 1.5
        began = time.monotonic()
        with pytest.raises(MediaError, match="took too long") as caught:
            file.read(10)
        assert 0.8 <= time.monotonic() - began < 10
    assert caught.value.kind == "slow"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(MediaError, match="does not answer") as caught:
        storage.open_address("http://127.0.0.1:9/a.bin")
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("name", ["a b.bin", "a#b.bin", "100%.bin", "a%20b.bin", "q?x=1.bin", "é+&.bin", "a::b.bin"])
def test_a_name_is_a_name_whatever_its_characters(server: WebServer, name: str) -> None:
    (server.folder / name).write_bytes(name.encode())
    assert storage.open_address(join(server.url, name)).read() == name.encode()


def test_patterns_need_a_list_that_no_web_server_gives(server: WebServer) -> None:
    write_rows(server.folder / "rows-0.jsonl", [{"conversations": turns("a?", "b")}])
    write_rows(server.folder / "rows-1.jsonl", [{"conversations": turns("c?", "d")}])
    assert len(open_source("text", SourceConfig(["rows-{0..1}.jsonl"], server.url))) == 2
    assert len(open_source("text", SourceConfig([f"{server.url}/rows-{{0,1}}.jsonl"]))) == 2
    for manifest, root in (
        ("rows-*.jsonl", server.url),
        (f"{server.url}/rows-*.jsonl", "."),
        ("*.json", f"{server.url}/*.tar"),
    ):
        with pytest.raises(
            StorageError, match=r"\*.*: a web server does not list its files: write their names, or \{000"
        ):
            open_source("text", SourceConfig([manifest], root))


@pytest.mark.parametrize("has_etags", [True, False])
def test_a_changed_manifest_is_read_anew(server: WebServer, has_etags: bool) -> None:
    """Also one of the same size, of which the server tells nothing else."""
    server.has_etags = has_etags
    manifest = write_rows(server.folder / "rows.jsonl", [{"conversations": turns("a?", "b")}])
    assert len(open_source("text", SourceConfig(["rows.jsonl"], server.url))) == 1
    write_rows(manifest, [{"conversations": turns("a?", "c")}])
    (row,) = open_source("text", SourceConfig(["rows.jsonl"], server.url))
    assert "c" in repr(row)


@pytest.mark.parametrize(("answer", "num_attempts"), [(403, 1), (503, 4)])
def test_an_index_looks_again_at_what_its_server_did_not_give(
    server: WebServer, answer: int, num_attempts: int, tmp_path: Path
) -> None:
    """The file is the same then, and so is all that its state is made from."""
    write_pictures(server.folder, 2)
    source = open_source("pictures", SourceConfig(["pictures.jsonl"], server.url))
    server.answers = [None, *[answer] * num_attempts]  # the state of the first file, then its first byte
    index = build_index([source], tmp_path / "index", jobs=0)
    assert [error is None for error in index.media["error"].to_pylist()] == [False, True]
    index = build_index([source], tmp_path / "index", jobs=0)
    assert index.media["error"].null_count == 2


def test_a_root_that_may_not_be_read_is_not_called_missing(server: WebServer) -> None:
    write_pictures(server.folder, 2)
    source = open_source("pictures", SourceConfig(["pictures.jsonl"], server.url))
    server.every_answer = 403
    with pytest.raises(MediaError, match=r"000\.png: access denied .*: check ~/\.netrc"):
        require_media(source)
    with pytest.raises(ManifestError, match=r"pictures\.jsonl: access denied .*netrc, or the file that NETRC names$"):
        open_source("pictures", SourceConfig(["pictures.jsonl"], server.url))
    with pytest.raises(StorageError, match="access denied") as caught:
        open_root(f"{server.url}/a.tar")
    assert caught.value.kind == "forbidden"
    server.every_answer = 404
    with pytest.raises(
        MediaError, match="no such file, nor those of the other rows of source pictures: correct its root"
    ):
        require_media(source)
