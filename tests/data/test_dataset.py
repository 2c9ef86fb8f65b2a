"""Micro-batches of rows, and what happens to rows that cannot be read."""

import json
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.dataset import MAX_REFILLS, ConversationDataset, PreparedBatch
from lightning_apollo.data.plan.order import refill_rows
from lightning_apollo.data.plan.planner import MicroBatchRequest
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.quarantine import MIN_BAD_SAMPLES, Quarantine
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import open_sources
from lightning_apollo.structures import MediaError
from tests.small_data import tiny_tokenizer, turns, write_pictures, write_rows

BROKEN = {3, 4, 11}


def preparer() -> Preparer:
    return Preparer(
        Preprocessing(
            tokenizer=tiny_tokenizer(),
            patch_size=8,
            image_merge_size=1,
            video_merge_size=2,
            budget=BudgetConfig(token_budget=32, min_tokens=4, max_length=256),
        )
    )


def dataset(folder: Path, num_rows: int = 20, skips_bad: bool = True, **broken: set[int]) -> ConversationDataset:
    """One source for each keyword, whose rows in the set are broken."""
    configs = {
        name: SourceConfig([str(write_pictures(folder / name, num_rows, rows))], str(folder / name))
        for name, rows in broken.items()
    }
    return ConversationDataset(open_sources(configs, []), preparer(), seed=5, skips_bad=skips_bad)


def request(*rows: tuple[int, int], first_position: int = 0) -> MicroBatchRequest:
    return MicroBatchRequest(0, first_position, list(rows))


def ids(prepared: PreparedBatch) -> tuple[str, ...]:
    assert prepared.batch is not None
    return prepared.batch.sample_ids


def test_rows_become_one_packed_batch(tmp_path: Path) -> None:
    prepared = dataset(tmp_path, good=set())[request((0, 2), (0, 0))]
    assert ids(prepared) == ("pictures.jsonl:3", "pictures.jsonl:1")
    assert prepared.bad_samples == ()


def test_manifests_of_a_source_follow_each_other(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", [{"conversations": turns("one?", "1")}] * 2)
    write_rows(tmp_path / "b.jsonl", [{"conversations": turns("two?", "2")}] * 3)
    (source,) = open_sources({"text": SourceConfig([str(first), "b.jsonl"], str(tmp_path))}, [])
    assert [source[row].sample_id for row in range(len(source))] == [
        "a.jsonl:1",
        "a.jsonl:2",
        "b.jsonl:1",
        "b.jsonl:2",
        "b.jsonl:3",
    ]
    with pytest.raises(IndexError, match=r"source text.*row"):
        source[5]


def test_a_bad_sample_is_replaced_by_the_next_of_its_source(tmp_path: Path) -> None:
    rows = dataset(tmp_path, good=set(), mixed=BROKEN)
    prepared = rows[request((0, 1), (1, 3), (1, 5), first_position=40)]
    tried = [row for row in refill_rows(20, seed=5, epoch=0, sample_position=41) if row != 3]
    good = next(row for row in tried if row not in BROKEN)
    assert prepared.batch is not None
    assert prepared.batch.sources == ("good", "mixed", "mixed")
    assert ids(prepared)[1] == f"pictures.jsonl:{good + 1}"
    assert len(prepared.bad_samples) == 1 + tried.index(good)
    bad = prepared.bad_samples[0]
    assert (bad.source, bad.sample_id, bad.position) == ("mixed", "pictures.jsonl:4", 41)
    assert isinstance(bad.error, MediaError)


def test_the_same_request_gives_the_same_batch_whatever_came_before(tmp_path: Path) -> None:
    first, second = (dataset(tmp_path, mixed=BROKEN) for _ in range(2))
    wanted = request((0, 3), (0, 4), (0, 11), first_position=8)
    second[request((0, 11), (0, 4), first_position=8)]
    a, b = first[wanted], second[wanted]
    assert ids(a) == ids(b)
    assert a.batch is not None
    assert b.batch is not None
    assert torch.equal(a.batch.visual.pixels, b.batch.visual.pixels)


def test_raise_ends_at_the_first_bad_sample(tmp_path: Path) -> None:
    prepared = dataset(tmp_path, skips_bad=False, mixed=BROKEN)[request((0, 3), (0, 4))]
    with pytest.raises(MediaError, match=r"003\.png"):
        Quarantine(tmp_path / "quarantine.jsonl", max_share=1.0).admit(prepared)


def test_a_source_without_a_good_row_ends_the_run(tmp_path: Path) -> None:
    prepared = dataset(tmp_path, num_rows=MAX_REFILLS + 4, bad=set(range(MAX_REFILLS + 4)))[request((0, 0))]
    assert prepared.batch is None
    assert MAX_REFILLS <= len(prepared.bad_samples) <= MAX_REFILLS + 1
    with pytest.raises(MediaError):
        Quarantine(tmp_path / "quarantine.jsonl", max_share=1.0).admit(prepared)


def test_a_sample_that_cannot_fit_counts_as_bad(tmp_path: Path) -> None:
    rows = [{"conversations": turns("Tell.", "red " * 300)}, {"conversations": turns("Tell.", "red")}]
    path = write_rows(tmp_path / "text.jsonl", rows)
    sources = open_sources({"text": SourceConfig([str(path)], str(tmp_path))}, [])
    prepared = ConversationDataset(sources, preparer(), seed=0, skips_bad=True)[request((0, 0))]
    assert ids(prepared) == ("text.jsonl:2",)
    assert "max_length" in str(prepared.bad_samples[0].error)


def test_a_malformed_row_is_never_skipped(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "text.jsonl", [{"conversations": []}, {"conversations": turns("Tell.", "red")}])
    sources = open_sources({"text": SourceConfig([str(path)], str(tmp_path))}, [])
    prepared = ConversationDataset(sources, preparer(), seed=0, skips_bad=True)[request((0, 0))]
    with pytest.raises(ManifestError, match=r"text\.jsonl, line 1\b"):
        Quarantine(tmp_path / "quarantine.jsonl", max_share=1.0).admit(prepared)


def test_skipped_samples_are_listed(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", max_share=0.5)
    rows = dataset(tmp_path, mixed={3})
    assert quarantine.admit(rows[request((0, 3), (0, 1), first_position=6)]) is not None
    quarantine.admit(rows[request((0, 2))])
    (line,) = quarantine.path.read_text().splitlines()
    row = json.loads(line)
    assert row.pop("reason")
    assert row == {
        "path": str(tmp_path / "mixed" / "003.png"),
        "source": "mixed",
        "sample_id": "pictures.jsonl:4",
        "epoch": 0,
        "position": 6,
    }
    assert quarantine.num_bad == {"mixed": 1}
    assert quarantine.num_tried == {"mixed": 4}


def test_too_many_bad_samples_of_one_source_end_the_run(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", max_share=0.2)
    rows = dataset(tmp_path, good=set(), mixed={3})
    for _ in range(MIN_BAD_SAMPLES - 1):
        quarantine.admit(rows[request((1, 3), (0, 1), (0, 2))])
    with pytest.raises(RuntimeError, match=r"\b10 of 20 samples.*max_error_share.*\b0\.2\b"):
        quarantine.admit(rows[request((1, 3), (0, 1), (0, 2))])


def test_a_source_without_manifests_is_refused() -> None:
    with pytest.raises(ValueError, match=r"source.*manifest"):
        SourceConfig([])
