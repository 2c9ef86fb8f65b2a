"""Micro-batches of counted samples or packed ones, from costs beside the index."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.index.build import build_index, is_current
from lightning_apollo.data.index.sample_costs import IndexedCosts, indexed_costs
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.plan.epoch import PlanConfig
from lightning_apollo.data.plan.planner import CountedPlanner, MicroBatchRequest, PackedPlanner
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import Source, open_sources
from tests.small_data import tiny_text, tiny_tokenizer, turns, with_settings, write_pictures, write_rows

NUM_ROWS = 12
BROKEN = 3  # row of the pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, one of them broken, and twelve rows of text that grow longer."""
    folder = tmp_path_factory.mktemp("planned")
    write_pictures(folder, NUM_ROWS, broken={BROKEN})
    texts = [turns("Say so.", " ".join(["so"] * (5 * row + 1))) for row in range(NUM_ROWS)]
    write_rows(folder / "text.jsonl", [{"conversations": text} for text in texts])
    return folder


def sources_of(folder: Path) -> list[Source]:
    names = {"text": "text.jsonl", "pictures": "pictures.jsonl"}
    return open_sources({name: SourceConfig([file], str(folder)) for name, file in names.items()}, [])


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(
        Preprocessing(tiny_tokenizer(), 8, 1, 1, budget=BudgetConfig(token_budget=32, min_tokens=4, max_length=256))
    )


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return build_index(sources_of(folder), folder / "index", jobs=0, text=tiny_text())


@pytest.fixture(scope="module")
def costs(index: Index, preparer: Preparer) -> IndexedCosts:
    return indexed_costs(index, preparer, tiny_text())


def packed(costs: IndexedCosts, **config: object) -> PackedPlanner:
    return PackedPlanner(
        costs.samples, costs.rows, [0, 1], replace(PlanConfig(400, 600, step_size=2), weights={}, **config)
    )


def test_costs_are_those_of_the_samples_and_rows_those_of_the_source(
    folder: Path, costs: IndexedCosts, preparer: Preparer
) -> None:
    sources = sources_of(folder)
    assert costs.num_unusable == {"text": 0, "pictures": 1}
    assert len(costs.samples) == 2 * NUM_ROWS - 1
    for number, row in enumerate(costs.rows.tolist()):
        source = sources[costs.samples.source[number]]
        sample = preparer.sample(source[row], source.root)
        assert costs.samples.llm_tokens[number] == sample.input_ids.numel()
        assert costs.samples.patches[number] == sum(item.grid(8)[1] * item.grid(8)[2] for item in sample.visuals)
    assert set(costs.rows[costs.samples.source == 1].tolist()) == set(range(NUM_ROWS)) - {BROKEN}


def test_costs_are_counted_once_and_anew_for_other_settings(
    index: Index, costs: IndexedCosts, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_apollo.data.index.sample_costs.tokens", lambda *_: pytest.fail("counted again"))
    again = indexed_costs(index, preparer, tiny_text())
    assert np.array_equal(again.samples.llm_tokens, costs.samples.llm_tokens)
    tighter = with_settings(preparer, budget=replace(preparer.settings.budget, token_budget=16))
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        indexed_costs(index, tighter, tiny_text())
    assert pickle.loads(pickle.dumps(costs)).folder == costs.folder


def test_processes_count_what_one_counts(
    folder: Path, preparer: Preparer, costs: IndexedCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_apollo.data.index.sample_costs._CHUNK_ROWS", 7)
    fresh = build_index(sources_of(folder), folder / "fresh", jobs=0, text=tiny_text())
    done: list[tuple[int, int]] = []
    shared = indexed_costs(fresh, preparer, tiny_text(), jobs=2, progress=lambda *counts: done.append(counts))
    assert done == [(7, 24), (14, 24), (21, 24), (24, 24)]
    assert np.array_equal(shared.samples.llm_tokens, costs.samples.llm_tokens)
    assert np.array_equal(shared.rows, costs.rows)


def test_a_packed_epoch_asks_for_every_usable_row_once(costs: IndexedCosts) -> None:
    planner = packed(costs)
    requests = [planner.request(2, position) for position in range(planner.num_micro_batches(2))]
    rows = Counter(row for request in requests for row in request.rows)
    usable = {(0, row) for row in range(NUM_ROWS)} | {(1, row) for row in range(NUM_ROWS) if row != BROKEN}
    assert set(rows) <= usable
    assert set(rows.values()) == {1}
    assert len(requests) % 2 == 0
    assert [request.first_position for request in requests] == [
        sum(len(earlier.rows) for earlier in requests[:number]) for number in range(len(requests))
    ]
    assert packed(costs).request(2, 1) == requests[1]
    assert packed(costs).request(3, 1) != requests[1]


def test_sources_have_the_numbers_of_the_dataset(costs: IndexedCosts) -> None:
    alone = PackedPlanner(costs.samples, costs.rows, [-1, 0], PlanConfig(400, 600, weights={"pictures": 1.0}))
    rows = [row for position in range(alone.num_micro_batches(0)) for row in alone.request(0, position).rows]
    assert {source for source, _ in rows} == {0}
    assert len(rows) == NUM_ROWS - 1


def test_a_counted_epoch_has_equally_many_samples_each(folder: Path) -> None:
    planner = CountedPlanner({"text": 12, "pictures": 12}, {"text": 1.0, "pictures": 1.0}, 4, 8, seed=0)
    assert planner.num_micro_batches(0) == 6
    assert [len(planner.request(0, position).rows) for position in range(6)] == [4] * 6
    assert planner.request(1, 3).first_position == 12


def test_what_goes_bad_later_is_replaced_by_what_takes_no_more_room(
    folder: Path, costs: IndexedCosts, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth text breaks after it was planned: only the shorter ones before it may stand in."""
    broken_row = 4
    limit = int(costs.samples.llm_tokens[broken_row])
    dataset = ConversationDataset(sources_of(folder), preparer, seed=0, skips_bad=True, costs=costs)
    prepare = dataset.prepare

    def fail(source: int, row: int, epoch: int = 0) -> object:
        if (source, row) == (0, broken_row):
            raise ValueError("broken since")
        return prepare(source, row, epoch)

    monkeypatch.setattr(dataset, "prepare", fail)
    taken = set()
    for position in range(20):
        prepared = dataset[MicroBatchRequest(0, position, [(0, broken_row)])]
        assert prepared.batch is not None
        assert sum(prepared.batch.lengths) <= limit
        taken |= set(prepared.batch.sample_ids)
    assert taken == {f"text.jsonl:{row + 1}" for row in range(broken_row)}


def test_a_place_that_nothing_fits_in_stays_empty(
    folder: Path, costs: IndexedCosts, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first text is the shortest of all: where it breaks, the micro-batch continues without it."""
    dataset = ConversationDataset(sources_of(folder), preparer, seed=0, skips_bad=True, costs=costs)
    prepare = dataset.prepare

    def fail(source: int, row: int, epoch: int = 0) -> object:
        if (source, row) == (0, 0):
            raise ValueError("broken since")
        return prepare(source, row, epoch)

    monkeypatch.setattr(dataset, "prepare", fail)
    prepared = dataset[MicroBatchRequest(0, 0, [(0, 5), (0, 0), (0, 6)])]
    assert prepared.batch is not None
    assert prepared.batch.sample_ids == ("text.jsonl:6", "text.jsonl:7")
    assert [bad.sample_id for bad in prepared.bad_samples] == ["text.jsonl:1"]
    assert dataset[MicroBatchRequest(0, 0, [(0, 0)])].batch is None


def test_an_index_is_current_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    sources = open_sources({"pictures": SourceConfig(["pictures.jsonl"], str(tmp_path))}, [])
    made = build_index(sources, tmp_path / "index", jobs=0, text=tiny_text())
    assert is_current(made, sources, tiny_text())
    assert is_current(made, sources, None)
    assert not is_current(made, sources, replace(tiny_text(), system_prompt="Be brief."))
    (tmp_path / "001.png").write_bytes((tmp_path / "002.png").read_bytes() + b"more")
    assert not is_current(made, sources, tiny_text())
    again = build_index(sources, tmp_path / "index", jobs=0, text=tiny_text())
    assert again.fingerprint != made.fingerprint
    write_pictures(tmp_path, 2)
    assert not is_current(
        again, open_sources({"pictures": SourceConfig(["pictures.jsonl"], str(tmp_path))}, []), tiny_text()
    )
