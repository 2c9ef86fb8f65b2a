"""Dealing order: groups of equal cost for any number of ranks, and waits by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.plan.balance import balanced_order, imbalance


def dealt(cost: np.ndarray, group_size: int, seed: int = 0) -> np.ndarray:
    return balanced_order(cost, group_size, np.random.default_rng(seed))


def test_imbalance_by_hand() -> None:
    cost = np.array([1.0, 3.0, 4.0, 2.0, 6.0, 6.0, 99.0])
    assert imbalance(cost, world_size=2) == (13 / 11, 1.5)  # (3 + 4 + 6) / (2 + 3 + 6); the first step; 99 is no step
    assert imbalance(cost, world_size=2, accumulate=3) == (1.0, 1.0)  # 1 + 4 + 6 on either rank
    assert imbalance(cost, world_size=1) == (1.0, 1.0)
    assert imbalance(cost, world_size=3) == pytest.approx((10 / (22 / 3), 1.5))


@given(
    cost=st.lists(st.integers(0, 1000), max_size=200),
    group_size=st.integers(1, 70),
    seed=st.integers(0, 9),
)
@settings(derandomize=True, deadline=None)
def test_every_micro_batch_is_dealt_once(cost: list[int], group_size: int, seed: int) -> None:
    order = dealt(np.array(cost, dtype=np.int64), group_size, seed)
    assert sorted(order.tolist()) == list(range(len(cost)))


def test_a_group_holds_neighbours_in_cost_at_every_level() -> None:
    cost = np.random.default_rng(1).permutation(np.linspace(1000, 51_000, 512)).astype(np.int64)
    ranks = np.argsort(np.argsort(cost))[dealt(cost, group_size=128)]  # place of each by cost, as dealt
    for size in (128, 16):
        spread = np.ptp(ranks.reshape(-1, size), axis=1)
        assert spread.max() < size + 16  # within 3 % of the median, which are 8 places, costs are equal
    starts = ranks.reshape(-1, 128).min(axis=1)
    assert starts.tolist() != sorted(starts.tolist())  # and the groups are shuffled


def test_the_rest_is_random_and_last() -> None:
    cost = np.geomspace(1e6, 1e8, 1000).astype(np.int64)
    rest = dealt(cost, group_size=300)[900:]
    assert rest.min() < 100
    assert rest.max() > 900


def test_equal_costs_keep_their_neighbourhood_but_not_their_order() -> None:
    cost = np.full(640, 1000) + np.arange(640) % 7  # within 3 % of each other
    order = dealt(cost, group_size=64)
    for group in order.reshape(-1, 64):
        assert np.ptp(group) < 64
        assert group.tolist() != sorted(group.tolist())


def test_sorting_makes_ranks_wait_less() -> None:
    cost = np.random.default_rng(0).lognormal(10, 0.5, 8192)
    order = dealt((cost * 1000).astype(np.int64), group_size=256)
    for world_size in (2, 8, 32, 256):
        random, ours = imbalance(cost, world_size).mean, imbalance(cost[order], world_size).mean
        assert ours - 1 < (random - 1) / 8
