"""Rows that no step of a stage shows: counted by hand, and against what the loader hands out."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_apollo.data.plan.epoch import PlanConfig
from lightning_apollo.data.plan.planner import CountedPlanner, PackedPlanner, Planner
from lightning_apollo.data.plan.unseen import Unseen, divisor, find_unseen, unseen_line
from tests.data.plan.test_small_epochs import costs
from tests.data.test_datamodule import data_module, trainer
from tests.small_data import write_pictures


def counted(sizes: dict[str, int], mixture: dict[str, float], micro: int, step: int) -> CountedPlanner:
    return CountedPlanner(sizes, mixture, micro, step, seed=3)


def unseen_by_hand(planner: Planner, num_micro_batches: int) -> Counter[int]:
    """Rows of each source that are drawn in some epoch and that no request of the stage names."""
    drawn: set[tuple[int, int]] = set()
    shown: set[tuple[int, int]] = set()
    epoch = 0
    while num_micro_batches:
        positions = min(num_micro_batches, planner.num_micro_batches(epoch))
        drawn |= {(source, row) for source, row in planner.rows(epoch).tolist()}
        for position in range(positions):
            shown |= {(source, row) for source, row in planner.request(epoch, position).rows}
        num_micro_batches, epoch = num_micro_batches - positions, epoch + 1
    return Counter(source for source, _ in drawn - shown)


@pytest.mark.parametrize(
    ("mixture", "step", "num_micro_batches", "num_unseen"),
    [
        ({"a": 1.0}, 20, 10, 8),  # 28 rows, 10 micro-batches of 2 an epoch
        ({"a": 1.0}, 28, 14, 0),
        ({"a": 1.0}, 14, 7, 14),  # half of the epoch
        ({"a": 0.5}, 14, 7, 0),  # a fraction that was asked for
        ({"a": 0.5, "b": 1.0}, 20, 10, 4),  # 14 + 10
        ({"a": 2.0}, 50, 25, None),
        ({"a": 1.0}, 20, 100, 0),  # ten epochs
    ],
)
def test_rows_that_no_step_shows(
    mixture: dict[str, float], step: int, num_micro_batches: int, num_unseen: int | None
) -> None:
    sizes = {name: {"a": 28, "b": 10}[name] for name in mixture}
    planner = counted(sizes, mixture, 2, step)
    found = find_unseen(planner, list(sizes), num_micro_batches)
    by_hand = unseen_by_hand(planner, num_micro_batches)
    assert found.rows == {name: by_hand[number] for number, name in enumerate(sizes) if by_hand[number]}
    assert num_unseen is None or sum(found.rows.values()) == num_unseen


@pytest.mark.parametrize(("step_size", "num_micro_batches"), [(4, 4), (2, 4), (1, 5), (2, 2), (4, 40)])
def test_rows_that_no_packed_step_shows(step_size: int, num_micro_batches: int) -> None:
    nine = costs(*[4] * 9)  # two to a micro-batch of 8: five of them
    config = PlanConfig(max_llm_tokens=8, max_patches=100, step_size=step_size, weights={"rows": 1.0})
    planner = PackedPlanner(nine, np.arange(9, dtype=np.int32), [0], config)
    by_hand = unseen_by_hand(planner, num_micro_batches)
    assert find_unseen(planner, ["rows"], num_micro_batches).rows == ({"rows": by_hand[0]} if by_hand[0] else {})
    assert bool(by_hand[0]) == ((step_size, num_micro_batches) in ((4, 4), (2, 4), (2, 2)))


def test_the_line_says_how_many_of_which_source_and_what_to_set() -> None:
    unseen = Unseen({"a": 6, "b": 2}, 28, 28, ends_in_first_epoch=False)
    behind = "stage s: 8 of 28 rows are never shown (a 6, b 2): they lie behind the last whole step of an epoch, "
    assert unseen_line(unseen, "s", 1, ("global_batch_size", 14)) == (
        f"{behind}set stages.s.global_batch_size=14, which divides an epoch"
    )
    assert unseen_line(unseen, "s", 1, ("epochs", 0)) == f"{behind}raise stages.s.epochs"
    cut = Unseen({"a": 6}, 28, 28, ends_in_first_epoch=True)
    assert unseen_line(cut, "s", 9, ("global_batch_size", 14)) == (
        "stage s: 6 of 28 rows are never shown (a 6): max_steps ends before an epoch is through, set stages.s.max_steps=9 or more"
    )
    assert unseen_line(Unseen({}, 28, 28, ends_in_first_epoch=False), "s", 1, ("global_batch_size", 14)) is None
    assert [divisor(28, 20, unit) for unit in (1, 2, 4, 5)] == [14, 14, 4, 0]


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        ({}, "stage tuning: 2 of 6 rows are never shown (pictures 2): they lie behind the last whole step of an epoch, set "
            "stages.tuning.global_batch_size=2, which divides an epoch"),
        ({"global_batch_size": 2}, None),
        ({"max_steps": 1}, "stage tuning: 2 of 6 rows are never shown (pictures 2): they lie behind the last whole step of an "
            "epoch, raise stages.tuning.max_steps"),
        ({"max_steps": 1, "global_batch_size": 2}, "stage tuning: 4 of 6 rows are never shown (pictures 4): max_steps ends "
            "before an epoch is through, set stages.tuning.max_steps=3 or more"),
    ],
)  # fmt: skip
def test_a_stage_says_it_before_its_first_step(chosen: dict[str, Any], line: str | None, tmp_path: Path) -> None:
    write_pictures(tmp_path, 6)
    said: list[str] = []
    data = data_module(tmp_path, stage="tuning", **chosen)
    data.say = said.append
    data.trainer = trainer()
    data.setup("fit")
    data.train_dataloader()
    assert said == ([] if line is None else [line])
