"""Kept frame tables after changes and damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_apollo.data.media import kept_tables
from lightning_apollo.data.media.decoder import open_container
from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.kept_tables import frame_table
from tests.media_files import h264, write_clip


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("films") / "film.mp4", 60, 10, *h264(12))


class _Made:
    """Tables made from the index, counted."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self._read = kept_tables.read_mp4_table
        patch.setattr(kept_tables, "read_mp4_table", self)

    def __call__(self, *arguments: object) -> FrameTable | None:
        self.number += 1
        return self._read(*arguments)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Made:
    """Any table is kept, in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for limit in ("MIN_KEPT_FRAMES", "_MIN_BYTES"):
        monkeypatch.setattr(kept_tables, limit, 1)
    return _Made(monkeypatch)


def table_of(path: Path) -> FrameTable:
    table = frame_table(str(path), open_container(str(path)))
    assert table is not None
    return table


def kept_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache" / "lightning_apollo" / "frame_tables").rglob("??/*") if path.is_file()]


def test_a_table_is_made_once(film: Path, tmp_path: Path, made: _Made) -> None:
    first, second = table_of(film), table_of(film)
    assert made.number == 1
    assert second.ticks.tolist() == first.ticks.tolist() == [n * 1024 for n in range(60)]
    (kept,) = kept_files(tmp_path)
    assert kept.stat().st_size < 3 * 60


def test_a_file_that_changes_gets_a_new_table(film: Path, tmp_path: Path, made: _Made) -> None:
    changing = tmp_path / "changing.mp4"
    changing.write_bytes(film.read_bytes())
    assert len(table_of(changing)) == 60
    write_clip(changing, 30, 10, *h264(12))
    assert len(table_of(changing)) == 30
    os.utime(changing, (1, 1))
    table_of(changing)
    assert made.number == 3


@pytest.mark.parametrize("change", [lambda b: b[:-3], lambda b: b[:30], lambda b: b"", lambda b: b[:9] + b"?" + b[10:]])
def test_a_damaged_table_is_made_again(film: Path, tmp_path: Path, made: _Made, change) -> None:
    expected = table_of(film).ticks.tolist()
    (kept,) = kept_files(tmp_path)
    whole = kept.read_bytes()
    kept.write_bytes(change(whole))
    assert table_of(film).ticks.tolist() == expected
    assert made.number == 2
    assert kept.read_bytes() == whole


def test_a_table_of_another_version_is_made_again(film: Path, made: _Made, monkeypatch: pytest.MonkeyPatch) -> None:
    table_of(film)
    monkeypatch.setattr(kept_tables, "VERSION", 99)
    table_of(film)
    assert made.number == 2


def test_a_folder_that_takes_no_files_costs_only_time(film: Path, tmp_path: Path, made: _Made) -> None:
    (tmp_path / "cache" / "lightning_apollo").mkdir(parents=True)
    (tmp_path / "cache" / "lightning_apollo" / "frame_tables").write_text("in the way\n")
    table_of(film)
    assert len(table_of(film)) == 60
    assert made.number == 2


def test_short_and_costly_tables_are_not_kept(
    film: Path, tmp_path: Path, made: _Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tables, "MIN_KEPT_FRAMES", 61)
    table_of(film)
    monkeypatch.setattr(kept_tables, "MIN_KEPT_FRAMES", 1)
    monkeypatch.setattr(kept_tables, "MAX_FRAME_BYTES", 0.1)
    table_of(film)
    assert kept_files(tmp_path) == []


def test_tables_together_have_a_limit(tmp_path: Path, made: _Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tables, "MAX_KEPT_BYTES", 2 * 4096)  # blocks of two files
    for number in range(4):
        table_of(write_clip(tmp_path / f"{number}.mp4", 10, 10, *h264(12)))
    assert made.number == 4
    assert len(kept_files(tmp_path)) <= 2


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_long_film_without_a_plain_index_is_scanned_once(
    tmp_path: Path, made: _Made, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(kept_tables, "MIN_SCANNED_BYTES", 0)
    options = ("-movflags", "frag_keyframe+empty_moov") if ending == "mp4" else ()
    path = write_clip(tmp_path / f"film.{ending}", 60, 10, *h264(12), *options)
    expected = table_of(path).seconds.tolist()
    assert expected == pytest.approx([expected[0] + n / 10 for n in range(60)], abs=1e-3)
    monkeypatch.setattr(kept_tables, "open_demuxer", None)  # nobody can scan any more
    assert table_of(path).seconds.tolist() == expected


@pytest.mark.parametrize("ending", ["ts", "avi", "mpg"])
def test_containers_in_which_seeks_are_not_sure_have_no_table(tmp_path: Path, made: _Made, ending: str) -> None:
    path = write_clip(tmp_path / f"film.{ending}", 30, 25, "-c:v", "mpeg2video")
    assert frame_table(str(path), open_container(str(path))) is None
