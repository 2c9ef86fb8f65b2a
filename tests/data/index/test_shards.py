"""Shards of an index. Byte-equal merges, later rounds and shards that are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.merge import merge_shards
from lightning_apollo.data.index.sample_costs import indexed_costs
from lightning_apollo.data.index.shard_work import ShardSummary, index_shard
from lightning_apollo.data.index.shards import Shard, ShardError, hold_all
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.media.media_facts import MediaKey
from lightning_apollo.data.media.probe_pool import probe_all
from lightning_apollo.data.plan.epoch import PlanConfig, make_plan
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import Source, open_sources
from tests.media_files import cut, h264, write_clip
from tests.probes import logged, names_in
from tests.small_data import tiny_settings, tiny_text, turns, write_pictures, write_rows

FILES = ("media.arrow", "media.parquet", "samples.arrow", "samples.parquet")


def write_corpus(folder: Path) -> Path:
    """Pictures and clips, some broken, shown once or often by rows of two sources, some of which are broken too."""
    write_pictures(folder, 23, broken=[3, 11])
    whole = write_clip(folder / "whole.mp4", 40, 10, *h264(keyframe_interval=10))
    cut(whole, folder / "truncated.mp4", 0.6)
    shown = ("whole", "truncated", "missing", "whole")
    rows: list[dict[str, Any]] = [{"video": f"{name}.mp4", "conversations": turns("<video>?", "a")} for name in shown]
    rows += [
        {"video": "whole.mp4", "start_time": 9.0, "conversations": turns("<video>?", "a")},
        {"image": "whole.mp4", "conversations": turns("<image>?", "a")},
        {"image": ["007.png", "003.png", "007.png"], "conversations": turns("<image><image><image>?", "ä\u2028")},
        {"video": ["000.png", "001.png"], "fps": 2.5, "max_frames": 2, "conversations": turns("<video>?", "a")},
        {"image": ["000.png"], "conversations": turns("<image><image>?", "a")},
        {"conversations": turns("Tell me.", "No.")},
    ]
    write_rows(folder / "films.jsonl", rows)
    write_rows(folder / "talk.jsonl", [{"conversations": turns(f"Number {n}?", "No.")} for n in range(30)])
    return folder


NAMES = {"mixed": ["talk.jsonl", "pictures.jsonl"], "films": ["films.jsonl"]}


def sources_of(
    folder: Path,
    names: Mapping[str, list[str]] = NAMES,
    root: Path | None = None,
    outside_root: Sequence[str] = (),
    unknown_keys: str = "refuse",
) -> list[Source]:
    configs = {
        name: SourceConfig([str(folder / one) for one in files], str(root or folder)) for name, files in names.items()
    }
    return open_sources(configs, outside_root, unknown_keys)


def index_one(folder: Path, output: Path, number: int, count: int, **options: Any) -> ShardSummary:
    return index_shard(sources_of(folder), output, Shard(number, count), **{"jobs": 0, "text": tiny_text(), **options})


def merge(folder: Path, output: Path, text_identity: str | None = None, **options: Any) -> Index:
    identity = tiny_text().identity if text_identity is None else text_identity
    return merge_shards(sources_of(folder, **options), output, identity)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A corpus to change."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows for every shard, the last of them not full."""
    for module in ("build", "merge"):
        monkeypatch.setattr(f"lightning_apollo.data.index.{module}.ROWS_AT_A_TIME", 16)
    for module in ("shard_work", "merge"):
        monkeypatch.setattr(f"lightning_apollo.data.index.{module}.BLOCK_ROWS", 4)


@pytest.mark.parametrize("has_text", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_merged_shards_are_the_index_of_one_process(count: int, has_text: bool, corpus: Path, tmp_path: Path) -> None:
    text = tiny_text() if has_text else None
    build_index(sources_of(corpus), tmp_path / "one", jobs=0, text=text)
    log, output = tmp_path / "log", tmp_path / "merged"
    made = [index_one(corpus, output, k, count, text=text, probe=logged(log)) for k in reversed(range(count))]
    index = merge(corpus, output, text_identity=text.identity if text else "")
    assert content(output) == content(tmp_path / "one")
    # 23 pictures, three clips, one of them as an image too, and a list of frames
    assert sum(one.num_files for one in made) == index.media.num_rows == 28
    assert sum(one.num_rows for one in made) == len(index) == 63
    assert sum(one.num_broken for one in made) == 5
    assert len(names_in(log)) == 28
    assert sorted(path.name for path in output.iterdir()) == sorted([*FILES, "lock", "shards.lock"])


def test_the_plan_of_a_merged_index_is_that_of_one_process(corpus: Path, tmp_path: Path) -> None:
    preparer = Preparer(tiny_settings(budget=BudgetConfig(token_budget=32, min_tokens=4, max_length=256)))
    for number in (1, 0):
        index_one(corpus, tmp_path / "merged", number, 2)
    one = build_index(sources_of(corpus), tmp_path / "one", jobs=0, text=tiny_text())
    plans = []
    for index in (one, merge(corpus, tmp_path / "merged")):
        costs = indexed_costs(index, preparer, tiny_text())
        plans.append(make_plan(costs.samples, PlanConfig(512, 1024), epoch=0))
        assert len(costs.samples) == 63 - 2 - 6  # broken rows of both sources
    assert plans[0].samples.tolist() == plans[1].samples.tolist()
    assert plans[0].offsets.tolist() == plans[1].offsets.tolist()


def test_a_file_stays_in_its_shard_whatever_rows_are_added(own: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(3):
        index_one(own, tmp_path / "index", number, 3)
    rows = (own / "pictures.jsonl").read_text()
    write_pictures(own / "new", 2)
    new = (own / "new" / "pictures.jsonl").read_text().replace('"00', '"new/00')
    (own / "pictures.jsonl").write_text(new + rows)  # in front of all others
    for number in range(3):
        index_one(own, tmp_path / "index", number, 3, probe=logged(log))
    assert sorted(names_in(log)) == ["000.png", "001.png"]
    build_index(sources_of(own), tmp_path / "one", jobs=0, text=tiny_text())
    merge(own, tmp_path / "index")
    assert content(tmp_path / "index") == content(tmp_path / "one")


def test_every_file_has_one_shard_by_its_address_alone() -> None:
    keys = [MediaKey(f"clips/{number}.mp4", "video") for number in range(3000)]
    for count in (1, 2, 7):
        dealt = [[shard.has_media(key) for key in keys] for shard in (Shard(k, count) for k in range(count))]
        assert [sum(ones) for ones in zip(*dealt, strict=True)] == [1] * len(keys)
        assert min(map(sum, dealt)) > 0.8 * len(keys) / count
    # The first eight bytes of SHA-256, most significant first: 0xa3b72c0b73f4e52c is 3 modulo 7
    assert Shard(3, 7).has_media(keys[0])


def test_only_what_changed_is_probed_by_a_later_round_of_shards(own: Path, tmp_path: Path) -> None:
    log, output = tmp_path / "log", tmp_path / "index"
    for number in range(2):
        index_one(own, output, number, 2)
    merge(own, output)
    os.utime(own / "005.png", ns=(1, 1))
    for number in range(2):
        index_one(own, output, number, 2, probe=logged(log))
    assert names_in(log) == ["005.png"]
    merge(own, output)
    build_index(sources_of(own), tmp_path / "one", jobs=0, text=tiny_text())
    assert content(output) == content(tmp_path / "one")


def refused(folder: Path, output: Path, **options: Any) -> str:
    """Message of a merge that is refused, on one line; what lies in the index stays."""
    before = {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file() and path.suffix != ".lock"}
    with pytest.raises(ShardError, match=r"^[^\n]+$") as caught:
        merge(folder, output, **options)
    assert {
        path: path.read_bytes() for path in output.rglob("*.*") if path.is_file() and path.suffix != ".lock"
    } == before
    return str(caught.value)


def test_a_missing_shard_is_named(corpus: Path, tmp_path: Path) -> None:
    assert "no shards here: make them with" in refused(corpus, tmp_path)
    assert "no shards here: make them with" in refused(corpus, tmp_path / "nowhere")
    index_one(corpus, tmp_path, 1, 4)
    assert "shards 0/4, 2/4 and 3/4 are missing: run" in refused(corpus, tmp_path)
    for number in (0, 2):
        index_one(corpus, tmp_path, number, 4)
    said = refused(corpus, tmp_path)
    assert said.endswith("shard 3/4 is missing: run `lightning-apollo data index` with --shard 3/4")
    index_one(corpus, tmp_path, 1, 2)
    assert "journals of 2 and of 4 shards: remove those that are not to be merged" in refused(corpus, tmp_path)


@pytest.mark.parametrize("what", ["block", "media"])
def test_an_unfinished_shard_is_named(what: str, corpus: Path, tmp_path: Path) -> None:
    for number in range(3):
        index_one(corpus, tmp_path, number, 3)
    journal = Shard(1, 3).journal(tmp_path)
    lines = journal.read_text().splitlines(keepends=True)
    left = [line for line in lines if line.startswith("[" if what == "block" else "{")]
    journal.write_text("".join([*lines[:1], *left, lines[-1][:40]] if what == "block" else [*left, lines[-1][:40]]))
    said = refused(corpus, tmp_path)
    assert said == "shard 1/3 is not finished: run `lightning-apollo data index` with --shard 1/3"
    index_one(corpus, tmp_path, 1, 3)
    assert len(merge(corpus, tmp_path)) == 63


def test_a_damaged_line_is_made_anew(corpus: Path, tmp_path: Path) -> None:
    for number in range(2):
        index_one(corpus, tmp_path, number, 2)
    journal = Shard(0, 2).journal(tmp_path)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], lines[1][:25] + lines[1][60:], *lines[2:]]))
    assert "shard 0/2 is not finished" in refused(corpus, tmp_path)
    index_one(corpus, tmp_path, 0, 2)
    build_index(sources_of(corpus), tmp_path / "one", jobs=0, text=tiny_text())
    merge(corpus, tmp_path)
    assert content(tmp_path) == content(tmp_path / "one")


def test_a_stale_shard_is_refused_naming_what_changed(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "index"
    for number in range(2):
        index_one(own, output, number, 2)
    counter = replace(tiny_text(), system_prompt="Sing.")
    run = "run `lightning-apollo data index` with --shard"

    def said(**options: Any) -> str:
        message = refused(own, output, **options).removeprefix(f"{output}: shard 0/2 was made ")
        return message.removesuffix(f": {run} 0/2 with what is merged now")

    films, talk, pictures = ["films.jsonl"], "talk.jsonl", "pictures.jsonl"
    manifest = "manifest mixed/1/pictures.jsonl (source/number/file)"
    assert said(text_identity=counter.identity) == "with another tokenizer, system prompt or text of clips"
    assert said(unknown_keys="ignore") == "with another data.unknown_keys in source mixed"
    assert said(outside_root=["/elsewhere"]) == "with another data.outside_root in source mixed"
    assert said(root=own.parent) == "with another root of source mixed"
    assert said(names={"films": films}) == "with another list of sources"
    assert said(names={"mixed": [talk], "films": films}) == f"with {manifest}, which is not there now"
    assert said(names={"mixed": [talk, pictures, talk], "films": films}).startswith(
        "without manifest mixed/2/talk.jsonl"
    )
    assert said(names={"mixed": [pictures, talk], "films": films}).startswith("without manifest mixed/0/pictures.jsonl")
    rows = (own / "pictures.jsonl").read_text()
    (own / "pictures.jsonl").write_text(rows.replace("number 3", "number 7"))
    assert said() == f"with another {manifest}"
    (own / "pictures.jsonl").write_text(rows)
    assert len(merge(own, output)) == 63


def test_a_shard_that_was_made_anew_is_merged_with_fresh_ones_alone(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "index"
    for number in range(2):
        index_one(own, output, number, 2)
    rows = (own / "films.jsonl").read_text()
    (own / "films.jsonl").write_text(rows.replace("Tell me.", "Tell us."))
    index_one(own, output, 0, 2)
    assert "shard 1/2 was made with another manifest films/0/films.jsonl" in refused(own, output)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes with a deadline that this process makes, so that no other one must start."""
    name = "lightning_apollo.data.index.build.probe_all"
    monkeypatch.setattr(name, lambda keys, jobs, deadline, probe: probe_all(keys, 0, deadline, probe))


@pytest.mark.usefixtures("no_processes")
def test_shards_of_other_deadlines_are_refused_and_broken_files_probed_again(corpus: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    index_one(corpus, tmp_path, 0, 2, jobs=1, deadline=30.0)
    index_one(corpus, tmp_path, 1, 2, jobs=1, deadline=20.0)
    said = refused(corpus, tmp_path)
    assert "shard 1/2 was made with --deadline 20.0, shard 0/2 with 30.0: run" in said
    index_one(corpus, tmp_path / "one", 0, 1, jobs=1, deadline=20.0)
    index_one(corpus, tmp_path / "one", 0, 1, jobs=1, deadline=30.0, probe=logged(log))
    assert sorted(names_in(log)) == ["003.png", "011.png", "missing.mp4", "truncated.mp4", "whole.mp4"]  # as an image


def test_a_shard_of_another_format_is_refused_and_made_anew(corpus: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    index_one(corpus, tmp_path, 0, 1)
    journal = Shard(0, 1).journal(tmp_path)
    journal.write_text(journal.read_text().replace('"index format": "', '"index format": "0.', 1))
    assert "shard 0/1 was made with another index format" in refused(corpus, tmp_path)
    index_one(corpus, tmp_path, 0, 1, probe=logged(log))
    assert len(names_in(log)) == 28
    assert len(merge(corpus, tmp_path)) == 63


@pytest.mark.parametrize("change", ["touched", "longer", "gone", "mended"])
def test_media_that_changed_since_are_named(change: str, own: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "index", tmp_path / "log"
    for number in range(3):
        index_one(own, output, number, 3)
    path = own / ("missing.mp4" if change == "mended" else "whole.mp4" if change == "gone" else "005.png")
    if change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes((own / "whole.mp4").read_bytes())
    (shard,) = [Shard(k, 3) for k in range(3) if Shard(k, 3).has_media(MediaKey(str(path), "video"))]
    place = {"mended": "films, films.jsonl:3", "gone": "films, films.jsonl:1"}.get(change, "mixed, pictures.jsonl:6")
    others = " and 1 others have" if change == "gone" else " has"  # the film as an image
    fix = f"run `lightning-apollo data index` with --shard {shard}"
    assert refused(own, output) == f"{path} (source {place}){others} changed since being probed: {fix}"
    index_one(own, output, shard.number, 3, probe=logged(log))
    assert set(names_in(log)) == {path.name}
    merge(own, output)
    build_index(sources_of(own), tmp_path / "one", jobs=0, text=tiny_text())
    assert content(output) == content(tmp_path / "one")


def test_shards_of_another_recipe_survive_a_merge_that_has_nothing_to_do(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "index"
    build_index(sources_of(own), output, jobs=0, text=tiny_text())
    index_shard(sources_of(own), output, Shard(0, 1), jobs=0)  # without text
    kept = content(output)
    merge(own, output)
    assert content(output) == kept
    assert Shard(0, 1).journal(output).is_file()
    assert merge(own, output, text_identity="").text_identity == ""
    assert not Shard(0, 1).journal(output).exists()


def test_one_process_works_on_a_shard_and_none_beside_a_merge(corpus: Path, tmp_path: Path) -> None:
    with Shard(1, 2).hold(tmp_path):
        with pytest.raises(ShardError, match="another process works on shard 1/2: give every process its own i/n"):
            index_one(corpus, tmp_path, 1, 2)
        assert index_one(corpus, tmp_path, 0, 2).num_files
        with pytest.raises(ShardError, match="a shard is being made, or a merge is at work: merge when all have ended"):
            merge(corpus, tmp_path)
    with hold_all(tmp_path), pytest.raises(ShardError, match="its shards are being merged: run this again when"):
        index_one(corpus, tmp_path, 1, 2)


@pytest.mark.parametrize(
    ("word", "environment", "expected"),
    [
        ("0/1", {}, Shard(0, 1)),
        ("3/4", {"RANK": "0", "WORLD_SIZE": "2"}, Shard(3, 4)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "2"}, Shard(1, 2)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "8"}, Shard(2, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "1"}, "write --shard 2/n"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MAX": "4", "SLURM_ARRAY_TASK_COUNT": "4"}, "write --shard 1/n"),
        ("auto", {}, "neither torchrun nor a SLURM array started this"),
        ("auto", {"RANK": "1"}, "neither torchrun nor a SLURM array started this"),
        ("4/4", {}, "i is from 0 to 3"),
        ("0/0", {}, "n is at least 1"),
        ("1", {}, "write i/n"),
        ("-1/4", {}, "write i/n"),
        ("1/4/2", {}, "write i/n"),
        ("a/b", {}, "write i/n"),
        ("", {}, "write i/n"),
    ],
)  # fmt: skip
def test_the_word_for_a_shard(word: str, environment: Mapping[str, str], expected: Shard | str) -> None:
    if isinstance(expected, Shard):
        assert Shard.parse(word, environment) == expected
    else:
        with pytest.raises(ShardError, match=re.escape(expected)):
            Shard.parse(word, environment)
