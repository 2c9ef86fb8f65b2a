"""Keys that data.unknown_keys=ignore passes over: the same counts from rows and from an index, said once."""

from __future__ import annotations

from pathlib import Path

from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.datamodule import Batching, VideoDataModule
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.ignored_keys import IgnoredKey, ignored_keys_of_index, ignored_keys_of_sources
from lightning_apollo.data.source import open_sources
from tests.small_data import tiny_settings, tiny_text, turns, write_rows

TALK = turns("Why?", "So.")
ROWS = [{"tools": "x", "conversations": TALK}, {"conversations": []}, {"mood": 1, "tools": "y", "conversations": TALK}]


def _configs(folder: Path) -> dict[str, SourceConfig]:
    write_rows(folder / "chat.jsonl", ROWS)
    return {"chat": SourceConfig([str(folder / "chat.jsonl")], str(folder))}


def test_rows_and_an_index_of_them_give_the_same_counts(tmp_path: Path) -> None:
    sources = open_sources(_configs(tmp_path), (), "ignore")
    path = tmp_path / "chat.jsonl"
    expected = [IgnoredKey("chat", "tools", 2, f"{path}, row 1"), IgnoredKey("chat", "mood", 1, f"{path}, row 3")]
    assert ignored_keys_of_sources(sources) == expected
    assert ignored_keys_of_index(build_index(sources, tmp_path / "index", jobs=0)) == expected


def test_an_index_is_made_anew_where_the_recipe_refuses_keys_again(tmp_path: Path) -> None:
    configs = _configs(tmp_path)
    broken = [
        build_index(open_sources(configs, (), mode), tmp_path / "index", jobs=0).is_broken().tolist()
        for mode in ("refuse", "ignore", "refuse")
    ]
    assert broken == [[True] * 3, [False, True, False], [True] * 3]


def test_a_run_says_at_its_start_what_it_ignores(tmp_path: Path) -> None:
    batching = Batching({"chat": 1.0}, micro_batch_size=1, global_batch_size=1)
    for mode, expected in (
        ("ignore", ["data.unknown_keys=ignore passes over 'tools' (2 rows), 'mood' (1 rows)"]),
        ("refuse", []),
    ):
        said: list[str] = []
        config = DataConfig(sources=_configs(tmp_path), unknown_keys=mode)
        VideoDataModule(
            config, batching, tiny_settings(), tiny_text(), tmp_path / "run", say=said.append
        ).prepare_data()
        assert said == expected
