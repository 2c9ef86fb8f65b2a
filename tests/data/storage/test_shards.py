"""Tar shards: patterns, contents and member table."""

from __future__ import annotations

import io
import os
import pickle
import random
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import shards
from lightning_apollo.data.storage.address import StorageError
from lightning_apollo.data.storage.shards import open_shards


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_shard(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as shard:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            shard.addfile(header, io.BytesIO(content))
    return path


def read(pattern: Path | str, name: str) -> bytes | None:
    table = open_shards(str(pattern))
    member = table.find(name)
    if member is None:
        return None
    with storage.open_address(table.address(member)) as file:
        return file.read()


def test_members_are_found_whatever_the_form_of_their_header(tmp_path: Path) -> None:
    members = {
        "a.mp4": b"film",
        "./b.png": b"picture",
        "deep/er/c.json": b"{}",
        "empty": b"",
        f"{'long' * 60}.mp4": b"long",  # longer than a header has room for
        "日本.gif": b"name",
        "block": bytes(1024),
    }
    write_shard(tmp_path / "a.tar", members)
    with tarfile.open(tmp_path / "a.tar", "a") as shard:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a.mp4"
            shard.addfile(header)
    assert len(open_shards(str(tmp_path / "a.tar"))) == len(members)
    for name, content in members.items():
        assert read(tmp_path / "a.tar", name.removeprefix("./")) == content
    assert read(tmp_path / "a.tar", "link") is None
    assert read(tmp_path / "a.tar", "er/c.json") is None


@pytest.mark.parametrize("shard_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(tmp_path: Path, shard_format: int) -> None:
    content = random.Random(0).randbytes(5000)
    with tarfile.open(tmp_path / "a.tar", "w", format=shard_format) as shard:
        for name in ("first", "d" * 60 + "/" + "e" * 60):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            shard.addfile(header, io.BytesIO(content))
    assert read(tmp_path / "a.tar", "d" * 60 + "/" + "e" * 60) == content


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-000.tar", ["a-000"]),
        ("a-{000..002}.tar", ["a-000", "a-001", "a-002"]),
        ("{b,a}-00{1..2}.tar", ["b-001", "b-002", "a-001", "a-002"]),
        ("a-*.tar", ["a-000", "a-001", "a-002"]),
        ("?-00[12].tar", ["a-001", "a-002", "b-001", "b-002"]),
        ("{b,a}-*2.tar", ["b-002", "a-002"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for letter in "ab":
        for number in range(3):
            name = f"{letter}-{number:03d}"
            write_shard(tmp_path / f"{name}.tar", {f"{name}.mp4": name.encode()})
    table = open_shards(str(tmp_path / pattern))
    assert [table.name(member) for member in range(len(table))] == [f"{name}.mp4" for name in expected]
    assert read(tmp_path / pattern, f"{expected[-1]}.mp4") == expected[-1].encode()


def test_members_by_their_ending_keep_their_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"z.json": b"1", "z.mp4": b"", "a.json": b"2"})
    write_shard(tmp_path / "1.tar", {"m.jsonl": b"", "m.json": b"3"})
    table = open_shards(str(tmp_path / "{0..1}.tar"))
    assert [table.name(member) for member in table.ending(".json").tolist()] == ["z.json", "a.json", "m.json"]
    assert table.shard(4) == str(tmp_path / "1.tar")


def test_headers_are_read_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path / "a.tar", {"a": b"old"})
    assert read(path, "a") == b"old"
    opened: list[str] = []
    members = shards._members
    monkeypatch.setattr(shards, "_members", lambda *about: (opened.append(about[1]), members(*about))[1])
    assert read(path, "a") == b"old"
    assert opened == []
    write_shard(path, {"b": b"new"})
    os.utime(path, ns=(1, 1))  # as if at another time, however coarse the clock of the file system
    assert read(path, "b") == b"new"
    assert read(path, "a") is None
    assert opened == [str(path)]


def test_a_table_of_many_members_is_small_to_hand_on_and_quick_to_ask(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {f"{number:06d}.mp4": b"" for number in range(20_000)})
    table = open_shards(str(tmp_path / "a.tar"))
    assert len(pickle.dumps(table)) < 1000
    copy = pickle.loads(pickle.dumps(table))
    begin = time.perf_counter()
    found = [copy.find(f"{number:06d}.mp4") for number in range(0, 20_000, 10)]
    assert time.perf_counter() - begin < 5  # a look at every name would take minutes
    assert found == list(range(0, 20_000, 10))


def test_names_whose_hashes_meet_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_hash", len)
    write_shard(tmp_path / "a.tar", {"aa": b"1", "bb": b"2", "c": b"3"})
    assert [read(tmp_path / "a.tar", name) for name in ("aa", "bb", "c", "dd", "eee")] == [b"1", b"2", b"3", None, None]


def test_shards_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    good = write_shard(tmp_path / "good.tar", {"a.mp4": bytes(4000), "b.mp4": bytes(4000)})
    (tmp_path / "cut.tar").write_bytes(good.read_bytes()[:6000])
    write_shard(tmp_path / "packed.tar", {"a.mp4": b""}, "w:gz")
    (tmp_path / "text.tar").write_text("no tar" * 200)
    write_shard(tmp_path / "twin.tar", {"b.mp4": b"", "c.mp4": b""})
    cases = {
        "cut.tar": r"/cut\.tar: .*tar file.*\(.+\): ",
        "packed.tar": r"/packed\.tar: .*tar file.*\(.+\): ",
        "text.tar": r"/text\.tar: .*tar file.*\(.+\): ",
        "gone.tar": r"/gone\.tar: .*root .*gone\.tar$",
        "{0..1}.tar": r"/0\.tar: .*shard",
        "none-*.tar": r"/none-\*\.tar: .*root$",
        "{good,twin}.tar": r"^b\.mp4 .*/good\.tar .*/twin\.tar\b",
    }
    for pattern, message in cases.items():
        with pytest.raises(StorageError, match=message):
            open_shards(str(tmp_path / pattern))
    assert read(good, "b.mp4") == bytes(4000)
