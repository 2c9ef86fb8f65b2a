"""Broken rows and contents per source, counted by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.scan import scan, summarise, write_broken
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.source import open_sources
from tests.media_files import h264, write_clip
from tests.small_data import turns, write_pictures, write_rows


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Ten pictures, three of them broken; a clip of 4 s in three rows, one of them beyond its end; a source of nothing."""
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 10, broken=[2, 5])
    (folder / "007.png").unlink()
    write_clip(folder / "clip.mp4", 40, 10, *h264())
    ask = turns("<video>?", "yes")
    rows = [{"video": "clip.mp4", "conversations": ask}] * 2
    rows += [{"video": "clip.mp4", "start_time": n, "conversations": ask} for n in (7.0, 8.5)]
    write_rows(folder / "films.jsonl", [*rows, {"conversations": []}])
    (folder / "nothing.jsonl").touch()
    names = ("films", "nothing", "pictures")
    sources = {name: SourceConfig([str(folder / f"{name}.jsonl")], str(folder)) for name in names}
    return build_index(open_sources(sources, ()), folder / "index", jobs=0)


def test_reasons_are_counted_whatever_the_numbers_in_them(index: Index) -> None:
    films, nothing, pictures = scan(index)
    assert (films.source, films.num_rows, films.num_broken, films.share) == ("films", 5, 3, 0.6)
    assert [fault.num_rows for fault in films.faults] == [2, 1]
    example = films.faults[0].example
    assert (example.row, Path(example.path).name) == (3, "clip.mp4")
    assert str(example).endswith(
        "clip.mp4: segment from 7.0 to None s is outside the video, which plays from 0.00 to 4.00 s"
    )
    row = films.faults[1].example
    assert str(row).endswith("films.jsonl, row 5: 'conversations' is no list of turns: write [turn, turn, ...]")
    assert (nothing.num_rows, nothing.share, nothing.faults) == (0, 0.0, ())
    assert (pictures.num_rows, pictures.num_broken) == (10, 3)
    assert [(fault.num_rows, fault.example.reason[:12]) for fault in pictures.faults] == [
        (2, "not a pictur"),
        (1, "no such file"),
    ]


def test_all_broken_rows_are_listed(index: Index, tmp_path: Path) -> None:
    write_broken(index, tmp_path / "broken.csv")
    with (tmp_path / "broken.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["row"], Path(row["path"]).name) for row in rows] == [
        ("films", "3", "clip.mp4"),
        ("films", "4", "clip.mp4"),
        ("films", "5", ""),
        ("pictures", "3", "002.png"),
        ("pictures", "6", "005.png"),
        ("pictures", "8", "007.png"),
    ]
    assert all(row["reason"] and Path(row["manifest"]).name == f"{row['source']}.jsonl" for row in rows)


def test_files_count_once_and_broken_ones_not(index: Index) -> None:
    films, nothing, pictures = summarise(index)
    assert (films.num_samples, films.num_broken, films.num_images, films.num_videos) == (5, 3, 0, 1)
    assert films.video_hours == pytest.approx(4 / 3600)
    assert films.text_bytes == 4 * len("?yes")
    assert (nothing.num_samples, nothing.num_videos, nothing.text_bytes) == (0, 0, 0)
    assert (pictures.num_images, pictures.num_videos, pictures.video_hours) == (7, 0, 0.0)
    assert pictures.text_bytes == 10 * len("What colour?number 0")
    assert pictures.num_text_tokens is None
