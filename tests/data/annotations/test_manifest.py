"""Manifest files against the documentation's examples. Places in error messages, paths that leave the root."""

from __future__ import annotations

import json
import pickle
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.annotations.manifest import Manifest, ManifestError, check_manifest, read_manifest
from lightning_apollo.data.annotations.rows import parse_row
from tests.places import ROOT

DOC = ROOT / "docs/data.md"


def _row(text: str = "Q", **media: object) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "A"}], **media}


def _write(folder: Path, name: str, rows: list[dict[str, object]], ensure_ascii: bool = False) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=ensure_ascii, indent=1), encoding="utf-8")
    else:
        lines = [json.dumps(row, ensure_ascii=ensure_ascii) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _read(path: Path, **options: object) -> Manifest:
    return read_manifest(path, "source", path.parent, **options)


def _errors(path: Path) -> list[str]:
    return [str(error).removeprefix(f"{path}, ") for error in check_manifest(_read(path))]


def _documented_rows() -> list[dict[str, object]]:
    blocks = re.findall(r"```json\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return [json.loads(line) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_every_row_of_the_documentation_is_read(tmp_path: Path, name: str) -> None:
    rows = _documented_rows()
    assert len(rows) == 19
    manifest = _read(_write(tmp_path, name, rows))
    assert list(check_manifest(manifest)) == []
    assert [conversation.messages for conversation in manifest] == [parse_row(row) for row in rows]
    assert {len(conversation.media) for conversation in manifest} == {0, 1, 2, 3}


def test_the_error_in_the_documentation_is_the_one_that_is_raised(tmp_path: Path) -> None:
    rows = [_row()] * 16 + [_row("<image><image>", image="a.jpg")]
    path = _write(tmp_path, "train.jsonl", rows)
    error = next(iter(check_manifest(_read(path))))
    assert f"`{str(error).removeprefix(f'{tmp_path}/')}`" in re.sub(r"\s+", " ", DOC.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_are_a_sequence_that_pickles(tmp_path: Path, name: str) -> None:
    manifest = _read(_write(tmp_path, name, [_row("été"), _row("日本"), _row("🎬")]))
    assert len(manifest) == 3
    copy = pickle.loads(pickle.dumps(manifest))
    assert list(copy) == list(manifest) == manifest[0:3]
    assert [str(row.messages[0].parts[0].text) for row in copy[::-1]] == ["🎬", "日本", "été"]
    assert copy[-1].sample_id == f"{name}:3"
    assert copy[0].source == "source"
    with pytest.raises(IndexError):
        manifest[3]


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip() == text and "<" not in text)), st.booleans())
@settings(derandomize=True, deadline=None)
def test_texts_come_back_from_both_kinds_of_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii: bool
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a.json", "a.jsonl"):
        manifest = _read(_write(folder, name, [_row(text) for text in texts], ensure_ascii=ascii))
        assert [row.messages[0].parts[0].text for row in manifest] == texts


def test_errors_name_file_place_and_fix(tmp_path: Path) -> None:
    good, bad = json.dumps(_row()), json.dumps(_row("<image>Q"))
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join([good, bad, "", '{"conversations": ', good]).encode() + b'\n{"a": "\xff"}\n\n \n')
    assert _errors(path) == [
        "line 2: the text shows 1 <image> but the row lists 0: list one file for each, in order",
        "line 3: blank: remove the line",
        "line 4: not JSON (Expecting value at character 19): write one object on one line",
        "line 6: not UTF-8 (byte 8): save the file as UTF-8",
    ]
    path = tmp_path / "a.json"
    path.write_text(f"[{good}, {bad}]")
    assert _errors(path) == ["row 2: the text shows 1 <image> but the row lists 0: list one file for each, in order"]


def test_an_error_survives_a_loader_process() -> None:
    error = ManifestError("a.jsonl", "line 3", "blank: remove the line")
    assert str(pickle.loads(pickle.dumps(error))) == "a.jsonl, line 3: blank: remove the line"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r": .*JSON.*\.jsonl$"),
        ('{"a": 1}\n{}', r": .*JSON.*\.jsonl$"),
        (
            '{"info": {}, "annotations": []}',
            r": .*'info', 'annotations'",
        ),
        (
            "[\n{},\n{,}]",
            r", row 2: .*JSON \(Expecting property.* line 3\)",
        ),
        ("[{} {}]", r", row 2: .*JSON \(Expecting ',' or '\]' .*line 1\)"),
        ("[{},", r", row 2: .*JSON \(Expecting value .*line 1\)"),
    ],
)
def test_a_broken_list_is_refused_when_it_is_opened(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ManifestError, match=f"^{re.escape(str(path))}{message}"):
        _read(path)


def test_files_that_are_no_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"missing\.json\b.*file"):
        _read(tmp_path / "missing.json")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ManifestError, match=r"a.csv: '.csv'"):
        _read(tmp_path / "a.csv")
    with pytest.raises(ManifestError, match=r"folder.*\(FOLDER/\*\.arrow\b"):
        _read(tmp_path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_manifest_without_rows_is_empty(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[ ]" if name == "a.json" else "\n")
    assert list(_read(path)) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a file, a link inside, a link that leaves, and a neighbour whose name begins the same."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (root / "link_inside").symlink_to(root / "sub")
    (root / "link_outside").symlink_to(tmp_path / "root2")
    return root


@pytest.mark.parametrize("path", ["a.jpg", "sub/../a.jpg", "sub/./a.jpg", "link_inside/a.jpg", "..a.jpg"])
def test_paths_inside_the_root_are_accepted(root: Path, path: str) -> None:
    manifest = _read(_write(root, "a.jsonl", [_row(image=path)]))
    assert manifest[0].media[0].path == path


@pytest.mark.parametrize("path", ["../a.jpg", "sub/../../a.jpg", "../root2/a.jpg", "/etc/a.jpg", "link_outside/a.jpg"])
def test_paths_that_leave_the_root_are_refused_unless_their_folder_is_named(root: Path, path: str) -> None:
    manifest = _write(root, "a.jsonl", [_row(image=path)])
    fix = "move the file there, or name its folder in data.outside_root"
    assert _errors(manifest) == [f"line 1: media path '{path}' leaves the data root {root}: {fix}"]
    assert list(check_manifest(_read(manifest, outside_root=[str(root.parent), "/etc"]))) == []
    assert len(list(check_manifest(_read(manifest, outside_root=["/usr"])))) == 1


def test_an_absolute_path_into_the_root_is_accepted(root: Path) -> None:
    assert _errors(_write(root, "a.jsonl", [_row(image=str(root / "sub/a.jpg"))])) == []


def test_a_root_that_is_itself_a_link_is_followed(root: Path) -> None:
    path = _write(root, "a.jsonl", [_row(image="a.jpg"), _row(image=str(root / "a.jpg"))])
    (root.parent / "alias").symlink_to(root)
    assert list(check_manifest(read_manifest(path, "source", root.parent / "alias"))) == []


def test_opening_many_rows_reads_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("not a row\n" * 300_000)
    begin = time.perf_counter()
    manifest = _read(path)
    assert len(manifest) == 300_000
    assert time.perf_counter() - begin < 3.0  # parsing that many rows takes longer; measured 0.1 s
    assert len(pickle.dumps(manifest)) < 20 * len(manifest), "two numbers a row"
