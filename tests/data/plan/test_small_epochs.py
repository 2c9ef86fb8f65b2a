"""Batch sizes where an epoch does not fill an optimizer step: hand-written tables, and stages of a few rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.epoch import PlanConfig, make_plan
from lightning_apollo.data.plan.order import TooFewSamples
from lightning_apollo.data.plan.small_epochs import counted_sizes, packed_step
from tests.data.test_datamodule import data_module, trainer
from tests.small_data import write_pictures


@pytest.mark.parametrize(
    ("num_samples", "micro", "step", "ranks", "expected"),
    [
        (32, 4, 32, 1, (4, 32)),  # enough: as the recipe says
        (33, 4, 32, 2, (4, 32)),
        (9, 32, 32, 1, (9, 9)),
        (9, 4, 32, 1, (4, 8)),
        (9, 4, 32, 2, (4, 8)),
        (9, 4, 32, 4, (2, 8)),
        (1, 32, 32, 1, (1, 1)),
        (3, 1, 32, 2, (1, 2)),
    ],
)
def test_a_step_is_as_small_as_the_epoch(
    num_samples: int, micro: int, step: int, ranks: int, expected: tuple[int, int]
) -> None:
    assert counted_sizes(num_samples, micro, step, ranks, "tuning") == expected


def test_every_rank_needs_a_sample() -> None:
    with pytest.raises(TooFewSamples, match=r"\b1 samples.*\b2 ranks.*stages\.tuning\.mixture"):
        counted_sizes(1, 1, 32, 2, "tuning")


def costs(*tokens: int) -> SampleCosts:
    return SampleCosts(
        source_names=("rows",),
        source=np.zeros(len(tokens), np.int16),
        llm_tokens=np.array(tokens, np.int32),
        patches=np.ones(len(tokens), np.int32),
        vision_squares=np.ones(len(tokens), np.int64),
    )


def test_a_packed_step_is_as_small_as_the_epoch() -> None:
    nine = costs(*[4] * 9)  # 36 tokens: two to a micro-batch of 8, so at least 5
    config = PlanConfig(max_llm_tokens=8, max_patches=100, step_size=16)
    assert packed_step(nine, config, 1, "tuning") == 5
    assert packed_step(nine, config, 2, "tuning") == 4
    few = PlanConfig(max_llm_tokens=8, max_patches=100, step_size=packed_step(nine, config, 2, "tuning"))
    assert all(len(make_plan(nine, few, epoch)) == 4 for epoch in range(20))
    with pytest.raises(TooFewSamples, match=r"\b5 micro-batches.*\b6 ranks.*tuning\.packing"):
        packed_step(nine, config, 6, "tuning")


@pytest.mark.parametrize(
    ("num_rows", "line"),
    [
        (3, "stage tuning: an epoch has 3 samples, fewer than a step of 4: a step takes 2; to choose, set "
            "stages.tuning.global_batch_size=2 stages.tuning.micro_batch_size=2"),
        (1, "stage tuning: an epoch has 1 samples, fewer than a step of 4: a step takes 1; to choose, set "
            "stages.tuning.global_batch_size=1 stages.tuning.micro_batch_size=1"),
    ],
)  # fmt: skip
def test_a_stage_of_a_few_rows_has_all_its_steps(num_rows: int, line: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, num_rows)
    said: list[str] = []
    data = data_module(tmp_path, max_steps=3, stage="tuning")
    data.say = said.append
    data.trainer = trainer()
    data.setup("fit")
    loader = data.train_dataloader()
    step = min(num_rows, 2)
    assert said == [line]
    assert [len(batch.lengths) for batch in loader] == [step] * 3
    assert data.trainer.accumulate_grad_batches == 1


def test_no_rows_and_none_drawn_are_errors(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)

    def open_loader(**chosen: Any) -> None:
        data = data_module(tmp_path, stage="tuning", **chosen)
        data.trainer = trainer()
        data.setup("fit")
        data.train_dataloader()

    with pytest.raises(TooFewSamples, match=r"\b4 rows.*stages\.tuning\.mixture"):
        open_loader(mixture={"pictures": 0.01})
    (tmp_path / "pictures.jsonl").write_text("")
    with pytest.raises(TooFewSamples, match=r"pictures\.jsonl: .*rows"):
        open_loader()
