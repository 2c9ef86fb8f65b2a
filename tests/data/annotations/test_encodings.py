"""Encodings of JSON manifests: read where a byte order mark says which, named where nothing does."""

from __future__ import annotations

import codecs
import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import pytest

from lightning_apollo.data.annotations.manifest import ManifestError, check_manifest, read_manifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.source import open_source

ROWS = [
    {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "là"}]}
    for text in ("Où ?", "日本 🎬")
]
LIST = json.dumps(ROWS, ensure_ascii=False, indent=1)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TEXTS = {"a.json": LIST, "a.jsonl": LINES}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _texts(path: Path) -> list[str]:
    manifest = pickle.loads(pickle.dumps(read_manifest(path, "source", path.parent)))
    return [row.messages[0].parts[0].text for row in manifest]


def _refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        list(read_manifest(path, "source", path.parent))
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_the_rows_are_the_same_in_every_encoding(tmp_path: Path, name: str, encoding: str, newline: str) -> None:
    mark = "" if encoding.startswith("utf-8") else "\ufeff"
    (tmp_path / name).write_bytes((mark + TEXTS[name].replace("\n", newline)).encode(encoding))
    assert _texts(tmp_path / name) == ["Où ?", "日本 🎬"]


def test_lone_carriage_returns_are_blanks_in_a_list_and_no_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(LIST.replace("\n", "\r").encode())
    assert _texts(tmp_path / "a.json") == ["Où ?", "日本 🎬"]
    assert "end lines with a line feed" in _refused(tmp_path / "a.jsonl", LINES.replace("\n", "\r").encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_row_keeps_its_place_in_messages(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" + LINES + "{\n", encoding=encoding)
    errors = [str(error).removeprefix(f"{path}, ") for error in check_manifest(read_manifest(path, "s", tmp_path))]
    assert [error.partition(":")[0] for error in errors] == ["line 1", "line 4"]


def test_a_converted_file_that_changes_is_converted_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(LIST, encoding="utf-16")
    assert len(_texts(path)) == 2
    path.write_text(json.dumps(ROWS[1:]), encoding="utf-16")
    assert _texts(path) == ["日本 🎬"]
    assert not list((tmp_path / "cache").rglob("*.json.utf8.*")), "no temporary file stays"


def test_a_byte_order_mark_begins_a_file_and_nothing_else(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + (line := LINES.encode()) + codecs.BOM_UTF8 + line
    refusal = ", line 3: a byte order mark inside the file, as joined files have it: remove these three bytes"
    assert _refused(tmp_path / "a.jsonl", content) == refusal


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_is_not_utf8_is_refused_with_its_place(tmp_path: Path, name: str, encoding: str) -> None:
    word = "乗乘" if encoding == "gbk" else "là"  # 乗's second byte in GBK is a backslash
    content = TEXTS[name].replace("日本 🎬", "plain").replace("Où", "Ou").replace("là", word)
    message = _refused(tmp_path / name, content.encode(encoding))
    place = "row 1" if name == "a.json" else "line 1"
    assert re.fullmatch(rf", {place}: not UTF-8 \(byte \d+\): save the file as UTF-8", message)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf16_without_its_mark_is_named(tmp_path: Path, encoding: str) -> None:
    message = _refused(tmp_path / "a.jsonl", LINES.encode(encoding))
    assert message.startswith(": zero bytes between characters, as in UTF-16 without a byte order mark: save")


def test_a_mark_that_lies_is_refused_with_the_place(tmp_path: Path) -> None:
    message = _refused(tmp_path / "a.json", codecs.BOM_UTF16_LE + "[".encode("utf-16-le") + b"\x00\xdc\x00\xdc")
    assert message.startswith(": not UTF-16-LE near byte 3, though its byte order mark says so")


def test_lists_and_lines_that_are_named_as_the_other_are_refused_with_the_fix(tmp_path: Path) -> None:
    assert _refused(tmp_path / "a.jsonl", LIST.encode()).endswith("should be a row: name the file .json")
    assert _refused(tmp_path / "a.json", LINES.encode()).endswith("or name a file of lines .jsonl")
    wrapped = json.dumps({"données": ROWS, "info": {}}, ensure_ascii=False).encode()
    assert "an object with the keys 'données', 'info', not a list" in _refused(tmp_path / "b.json", wrapped)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_members_of_shards_are_files_with_an_encoding_of_their_own(tmp_path: Path, encoding: str) -> None:
    content = json.dumps(ROWS[1], ensure_ascii=False).encode(encoding)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("0.json", "1.json"):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    source = open_source("shards", SourceConfig(["*.json"], str(tmp_path / "0.tar")))
    assert [source[row].messages[0].parts[0].text for row in range(2)] == ["日本 🎬"] * 2
