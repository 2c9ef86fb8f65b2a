"""Order of samples: pure and balanced and cut to whole steps, for any number of ranks."""

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.plan.order import (
    epoch_order,
    epoch_size,
    micro_batches,
    num_micro_batches,
    rank_positions,
    refill_rows,
)

SIZES = {"images": 7, "text": 4, "videos": 10}


def rows_of(order: torch.Tensor, source: int) -> Counter[int]:
    return Counter(row for index, row in order.tolist() if index == source)


def test_an_epoch_has_whole_passes_and_a_drawn_remainder() -> None:
    order = epoch_order(SIZES, {"images": 2.0, "videos": 1.5}, seed=0, epoch=0)
    assert order.dtype == torch.int64
    assert rows_of(order, 0) == dict.fromkeys(range(7), 2)
    assert not rows_of(order, 1)
    videos = rows_of(order, 2)
    assert sum(videos.values()) == 15
    assert set(videos) == set(range(10))  # the whole pass
    assert max(videos.values()) == 2  # the half pass is without replacement
    assert len(order) == epoch_size(SIZES, {"images": 2.0, "videos": 1.5}) == 29


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    mixture = {"images": 0.5, "videos": 1.0}
    first = epoch_order(SIZES, mixture, seed=3, epoch=1)
    torch.manual_seed(99)
    assert torch.equal(first, epoch_order(SIZES, mixture, seed=3, epoch=1))
    assert not torch.equal(first, epoch_order(SIZES, mixture, seed=3, epoch=2))
    assert not torch.equal(first, epoch_order(SIZES, mixture, seed=4, epoch=1))


def test_sources_are_spread_over_the_epoch() -> None:
    order = epoch_order({"a": 400, "b": 400}, {"a": 1.0, "b": 1.0}, seed=0, epoch=0)
    shares = order[:, 0].reshape(4, 200).double().mean(dim=1)  # of b, in the quarters of the epoch
    assert shares.sub(0.5).abs().max() < 0.1


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match=r"mixture.*\bclips;.*data\.sources.*images, text, videos"):
        epoch_order(SIZES, {"clips": 1.0}, seed=0, epoch=0)


def test_what_does_not_fill_a_global_batch_is_dropped() -> None:
    order = torch.arange(42).reshape(21, 2)
    batches = micro_batches(order, micro_batch_size=2, global_batch_size=8)
    assert batches.shape == (8, 2, 2)  # 16 of 21 samples
    assert torch.equal(batches.reshape(16, 2), order[:16])
    assert num_micro_batches(21, micro_batch_size=2, global_batch_size=8) == 8


def test_an_epoch_below_one_global_batch_says_so() -> None:
    with pytest.raises(ValueError, match=r"\b7 samples.*\b8:"):
        micro_batches(torch.zeros(7, 2), micro_batch_size=2, global_batch_size=8)


@given(
    world_size=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    steps=st.integers(1, 4),
    done=st.integers(0, 3),
)
@settings(derandomize=True, deadline=None)
def test_ranks_share_the_positions_evenly(world_size: int, accumulate: int, steps: int, done: int) -> None:
    end = steps * world_size * accumulate
    position = min(done, steps) * world_size * accumulate
    ranks = [rank_positions(end, position, rank, world_size) for rank in range(world_size)]
    assert len({len(positions) for positions in ranks}) == 1
    assert sorted(chain.from_iterable(ranks)) == list(range(position, end))


def test_a_step_has_the_same_samples_on_any_number_of_ranks() -> None:
    # Eight micro-batches of one global batch: each world size takes all of them in its first step.
    for world_size in (1, 2, 4, 8):
        accumulate = 8 // world_size
        taken = [
            position for rank in range(world_size) for position in rank_positions(16, 0, rank, world_size)[:accumulate]
        ]
        assert sorted(taken) == list(range(8))


@given(num_rows=st.integers(1, 60), position=st.integers(0, 10**7))
@settings(derandomize=True, deadline=None)
def test_the_refill_walk_meets_every_row_once(num_rows: int, position: int) -> None:
    walk = list(refill_rows(num_rows, seed=1, epoch=2, sample_position=position))
    assert sorted(walk) == list(range(num_rows))
    assert walk == list(refill_rows(num_rows, seed=1, epoch=2, sample_position=position))
