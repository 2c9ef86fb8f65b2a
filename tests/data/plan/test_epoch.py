"""Plan of an epoch: every draw once and whole steps on every rank, in every process and world size."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.plan_costs import MAX_LLM_TOKENS, mixed_costs
from benchmarks.plan_costs import MAX_PATCHES as MAX_PATCHES_OF_PAPER
from lightning_apollo.data.plan.config import CostConfig, PlanError
from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.draw import draw_epoch
from lightning_apollo.data.plan.epoch import Plan, PlanConfig, make_plan
from lightning_apollo.data.plan.order import rank_positions
from tests.data.plan_samples import MAX_PATCHES, MAX_TOKENS, samples, some_samples

SMALL = PlanConfig(MAX_TOKENS, MAX_PATCHES, window=16, group_size=8)
PAPER = PlanConfig(MAX_LLM_TOKENS, MAX_PATCHES_OF_PAPER)


def digest(plan: Plan) -> str:
    return hashlib.sha256(plan.offsets.tobytes() + plan.samples.tobytes()).hexdigest()


def all_micro_batches(plan: Plan) -> list[list[int]]:
    return [plan.micro_batch(position).tolist() for position in range(len(plan.offsets) - 1)]


@given(costs=some_samples(), weight=st.floats(1.0, 3.0), epoch=st.integers(0, 5))
@settings(derandomize=True, deadline=None)
def test_every_draw_is_in_one_micro_batch_within_the_limits(costs: SampleCosts, weight: float, epoch: int) -> None:
    config = replace(SMALL, weights={costs.source_names[0]: weight})
    plan = make_plan(costs, config, epoch)
    assert plan.offsets.dtype == plan.samples.dtype == np.int32
    drawn = draw_epoch(costs, config.weights, config.unit, config.seed, epoch)
    assert Counter(chain.from_iterable(all_micro_batches(plan))) == Counter(drawn.tolist())
    for part in all_micro_batches(plan):
        assert 0 < costs.llm_tokens[part].sum() <= MAX_TOKENS
        assert costs.patches[part].sum() <= MAX_PATCHES


@given(costs=some_samples(), world_size=st.integers(1, 5), accumulate=st.integers(1, 3), steps_done=st.integers(0, 4))
@settings(derandomize=True, deadline=None)
def test_ranks_take_equal_steps_also_after_resuming_with_others(
    costs: SampleCosts, world_size: int, accumulate: int, steps_done: int
) -> None:
    number = len(make_plan(costs, SMALL, 0).offsets) - 1
    config = replace(SMALL, step_size=world_size * accumulate)
    if number < config.step_size:
        with pytest.raises(PlanError, match=f"{number} micro-batches.*{config.step_size}"):
            make_plan(costs, config, 0)
        return
    plan = make_plan(costs, config, 0)
    assert 0 <= number - len(plan) < config.step_size  # what is lost is less than a step
    position = min(steps_done * config.step_size, len(plan))
    for ranks in (world_size, accumulate, 1):
        taken = [rank_positions(len(plan), position, rank, ranks) for rank in range(ranks)]
        assert {len(positions) for positions in taken} == {(len(plan) - position) // ranks}
        assert sorted(chain.from_iterable(taken)) == list(range(position, len(plan)))


def test_a_plan_by_hand() -> None:
    costs = samples({"text": [3, 7, 5, 5], "videos": [9, 1, 8, 2]})
    config = PlanConfig(10, 10, target_fill=1.0, step_size=2, cost=CostConfig(0.0, 0.0, 0.0, 1.0))
    plan = make_plan(costs, config, epoch=0)
    tokens = [sorted(costs.llm_tokens[part].tolist()) for part in all_micro_batches(plan)]
    assert sorted(tokens) == [[1, 9], [2, 8], [3, 7], [5, 5]]
    assert len(plan) == 4
    summary = plan.summary(costs, world_size=2)
    assert (summary.fill, summary.patch_fill, summary.imbalance) == (1.0, 1.0, (1.0, 1.0))
    assert (summary.num_samples, summary.num_micro_batches, summary.num_steps) == (8, 4, 2)
    assert summary.dropped_samples == 0
    assert summary.shares == {"text": 0.5, "videos": 0.5}


def test_the_summary_counts_what_is_cut_off_and_what_is_used() -> None:
    costs = samples({"text": [6, 6, 6], "videos": [8, 9]})
    config = PlanConfig(10, 20, unit="tokens", step_size=4, cost=CostConfig(0.0, 0.0, 0.0, 1.0))
    plan = make_plan(costs, config, epoch=0)  # each sample is a micro-batch, and four of five are one step
    dealt = plan.samples[:4]
    tokens = costs.llm_tokens[dealt]
    summary = plan.summary(costs, world_size=2)
    assert (summary.num_samples, summary.dropped_samples, summary.num_steps) == (4, 1, 1)
    assert summary.fill == pytest.approx(tokens.sum() / 40)
    assert summary.patch_fill == pytest.approx(tokens.sum() / 80)
    ranks = tokens.reshape(2, 2).sum(axis=0)  # positions 0 and 2 are rank 0's
    assert summary.imbalance == pytest.approx((ranks.max() / ranks.mean(),) * 2)
    assert summary.shares["videos"] == pytest.approx(tokens[dealt >= 3].sum() / tokens.sum())
    with pytest.raises(ValueError, match=r"\b3 ranks.*\b4 micro-batches"):
        plan.summary(costs, world_size=3)


def test_another_process_makes_the_same_plan() -> None:
    program = (
        "from tests.data.plan.test_epoch import *\n"
        "plan = make_plan(mixed_costs(3000), replace(PAPER, weights={'text': 2.5, 'video': 1.5}), epoch=3)\n"
        "print(digest(plan))"
    )
    plan = make_plan(mixed_costs(3000), replace(PAPER, weights={"text": 2.5, "video": 1.5}), epoch=3)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(plan)
    assert digest(pickle.loads(pickle.dumps(plan))) == digest(plan)


def test_the_sequence_depends_on_seed_and_epoch_and_not_on_the_step() -> None:
    costs = mixed_costs(2000)
    plan = make_plan(costs, PAPER, epoch=0)
    for step_size in (2, 21, 128):
        other = make_plan(costs, replace(PAPER, step_size=step_size), epoch=0)
        assert digest(other) == digest(plan)
        assert len(other) == len(plan) // step_size * step_size
    others = [make_plan(costs, PAPER, epoch=1), make_plan(costs, replace(PAPER, seed=1), epoch=0)]
    assert len({digest(plan), *map(digest, others)}) == 3
    together = [{frozenset(part) for part in all_micro_batches(one) if len(part) > 1} for one in (plan, *others)]
    assert len(together[0] & together[1]) < 0.01 * len(together[0])  # not the same micro-batches in another order


@pytest.mark.parametrize("world_size", [8, 64, 1024])
def test_micro_batches_are_full_and_ranks_equal_on_lengths_like_the_papers(world_size: int) -> None:
    costs = mixed_costs(20_000)
    plan = make_plan(costs, replace(PAPER, step_size=world_size), epoch=0)
    summary = plan.summary(costs, world_size)
    assert summary.fill >= 0.97
    assert summary.imbalance.mean <= 1.05
    assert summary.imbalance.worst <= 1.05
    assert summary.dropped_samples / len(costs) < world_size / (len(plan.offsets) - 1) * 1.05
    alike = replace(plan, samples=np.random.default_rng(0).permutation(plan.samples))
    assert alike.summary(costs, world_size).imbalance.mean > 1.5  # the measure sees what is not balanced


def test_micro_batches_have_the_shares_of_the_epoch_at_any_time() -> None:
    costs = mixed_costs(40_000)
    plan = make_plan(costs, replace(PAPER, weights={"text": 0.5, "image": 0.3, "video": 0.2}, unit="samples"), epoch=0)
    assert plan.summary(costs).shares == pytest.approx({"text": 0.5, "image": 0.3, "video": 0.2}, abs=0.005)
    for ten_thousand in np.split(plan.samples[:40_000], 4):
        shares = np.bincount(costs.source[ten_thousand]) / 10_000
        assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_a_sample_over_a_limit_is_named_and_counted() -> None:
    costs = samples({"text": [5, 50], "videos": [7, 41, 9]}, patches=[0, 0, 61, 3, 4])
    with pytest.raises(PlanError, match=r"1: 50 LLM.*3"):
        make_plan(costs, SMALL, epoch=0)
    with pytest.raises(PlanError, match=r"0: 7 LLM.*61 patches \(max_patches 60\).*2"):
        make_plan(costs, replace(SMALL, weights={"videos": 1.0}), epoch=0)


def test_positions_outside_the_plan_are_refused() -> None:
    plan = make_plan(samples({"a": [30, 30, 30, 30, 30]}), replace(SMALL, step_size=2), epoch=0)
    assert len(plan) == 4
    for position in (-1, 5):
        with pytest.raises(IndexError, match=r"\b5 micro-batches"):
            plan.micro_batch(position)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_llm_tokens", 0, r"max_llm_tokens .*\b0\b.*\b1\b"),
        ("step_size", 0, r"step_size .*\b0\b"),
        ("target_fill", 1.5, r"target_fill .*\b1\.5\b.*\b0\b.*\b1\b"),
        ("unit", "hours", r'unit .*"hours".*passes, samples, tokens'),
    ],
)
def test_a_config_that_cannot_be_planned(key: str, value: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(SMALL, **{key: value})


def test_the_plan_needs_no_torch() -> None:
    program = "import sys, lightning_apollo.data.plan.epoch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
