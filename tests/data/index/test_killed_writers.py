"""Indexes whose writer was killed: the old one or the new one is there, and what was probed is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.data.index import tables
from lightning_apollo.data.index.journal import open_journal, records, write_record
from lightning_apollo.data.index.tables import Index
from tests.data.index.test_build import index_of
from tests.media_files import write_clip
from tests.probes import logged, names_in
from tests.small_data import turns, write_pictures, write_rows


class Killed(BaseException):
    """In the place of SIGKILL: nothing that stands behind it runs."""


class Steps:
    """Calls that are counted; the last one that is allowed raises Killed in the place of what it does."""

    def __init__(self, number: int) -> None:
        self.left = number

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise Killed
            return call(*arguments, **options)

        return step


@pytest.mark.parametrize("name", ["media.arrow", "samples.arrow"])
def test_an_index_is_made_anew_where_an_arrow_file_is_missing(name: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    first = index_of(tmp_path, tmp_path / "index").fingerprint
    (tmp_path / "index" / name).unlink()
    log = tmp_path / "log"
    assert index_of(tmp_path, tmp_path / "index", probe=logged(log)).fingerprint == first
    assert names_in(log) == []


def test_a_writer_that_is_killed_leaves_the_old_index_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path, 4)
    old = index_of(tmp_path, tmp_path / "old").fingerprint
    rows = (tmp_path / "pictures.jsonl").read_text()
    (tmp_path / "pictures.jsonl").write_text(rows.replace("number 3", "number 7"))
    new = index_of(tmp_path, tmp_path / "new").fingerprint
    calls = {"write_table": tables.pq, "_write_arrow": tables, "rename": Path, "replace": Path, "rmdir": Path}
    for number in range(1, 11):  # four files are written, get a name together, and are moved; the folder goes
        folder, steps = tmp_path / f"{number}", Steps(number)
        shutil.copytree(tmp_path / "old", folder)
        with monkeypatch.context() as patch:
            for name, owner in calls.items():
                patch.setattr(owner, name, steps.counted(getattr(owner, name)))
            with pytest.raises(Killed):
                index_of(tmp_path, folder)
        assert Index(folder).fingerprint == (old if number < 6 else new), number
        assert index_of(tmp_path, folder).fingerprint == new
        assert not list(folder.glob("next*"))


def test_a_record_that_was_cut_short_harms_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    with open_journal(path) as journal:
        write_record(journal, ["a", "image", 1, 2, None, None])
    for cut in ('["b', '{"block": 3, "rows": [[', "\x00\x00"):
        with path.open("a") as file:
            file.write(cut)
        with open_journal(path) as journal:
            write_record(journal, ["c", "image", 1, 2, None, None])
    with path.open("a") as file:
        file.write(f'["torn\n{json.dumps(["d", "image", 1, 2, None, None])}\n17\n["cut short", ')
    assert [record[0] for record in records(path)] == ["a", "c", "c", "c", "d"]
    assert list(records(tmp_path / "nothing")) == []


def test_a_long_record_that_was_cut_short_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps(["a"]) + "\n" + "x" * 200_000)
    with open_journal(path) as journal:
        write_record(journal, ["b"])
    assert path.read_text() == '["a"]\n["b"]\n'
    path.write_text("x" * 200_000)
    with open_journal(path):
        assert path.read_text() == ""


def test_the_fingerprint_is_the_same_whether_facts_are_probed_or_read(tmp_path: Path) -> None:
    for number in range(2):
        write_clip(tmp_path / f"{number}.mp4", 8, 4)
    rows = [{"video": f"{number}.mp4", "conversations": turns("<video>?", "a")} for number in range(2)]
    write_rows(tmp_path / "films.jsonl", rows)
    first = index_of(tmp_path, tmp_path / "index", ("films",)).fingerprint
    (tmp_path / "1.mp4").touch()  # probed again, the other one is read from the table
    assert index_of(tmp_path, tmp_path / "index", ("films",)).fingerprint == first
