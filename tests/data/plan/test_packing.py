"""Packing against a window by hand. Limits, fill, equal costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.packing import Packed, pack
from tests.data.plan_samples import MAX_PATCHES, MAX_TOKENS, some_samples


def pack_tokens(tokens: list[int], limit: int, window: int = 100, target_fill: float = 1.0) -> list[list[int]]:
    """The tokens in each micro-batch, where they are the cost too."""
    sizes = np.array(tokens)
    return [sizes[members].tolist() for members in parts(pack([sizes], [limit], sizes, sizes, window, target_fill))]


def parts(packed: Packed) -> list[np.ndarray]:
    return np.split(packed.members, packed.offsets[1:-1])


def test_a_window_by_hand() -> None:
    assert pack_tokens([2, 7, 1, 5, 3, 2], limit=10) == [[2, 7, 1], [5, 3, 2]]  # as drawn in the module


def test_what_finds_no_room_is_packed_by_itself() -> None:
    assert pack_tokens([6, 6, 6, 2], limit=10) == [[6, 2], [6], [6]]  # two are opened
    # The sum fits twice; worst fit leaves 4 | 4 with one more 4 each, and no room for the last.
    assert pack_tokens([4, 4, 4, 4, 4], limit=10) == [[4, 4], [4, 4], [4]]


def test_windows_do_not_mix() -> None:
    assert pack_tokens([9, 1, 8, 2, 7, 3], limit=10, window=2) == [[9, 1], [8, 2], [7, 3]]
    assert pack_tokens([9, 8, 7, 1, 2, 3], limit=10, window=6) == [[9, 1], [8, 2], [7, 3]]


def test_each_limit_binds() -> None:
    tokens, patches = np.array([1, 1, 1, 9]), np.array([8, 8, 8, 0])
    packed = pack([tokens, patches], [10, 10], tokens, tokens, window=10, target_fill=1.0)
    assert sorted(len(part) for part in parts(packed)) == [1, 1, 2]
    assert all(patches[part].sum() <= 10 for part in parts(packed))


def test_the_cheapest_with_room_is_chosen_by_cost_and_not_by_tokens() -> None:
    tokens, cost = np.array([5, 1, 4]), np.array([1, 9, 1])
    packed = pack([tokens], [9], cost, cost, window=10, target_fill=0.7)  # two micro-batches for ten tokens
    assert [part.tolist() for part in parts(packed)] == [[1], [0, 2]]


@given(costs=some_samples(), window=st.integers(1, 50), target_fill=st.floats(0.1, 1.0), data=st.data())
@settings(derandomize=True, deadline=None)
def test_every_sample_is_packed_once_and_no_limit_is_passed(
    costs: SampleCosts, window: int, target_fill: float, data: st.DataObject
) -> None:
    cost = np.array(data.draw(st.lists(st.integers(0, 2**30), min_size=len(costs), max_size=len(costs))))
    packed = pack([costs.llm_tokens, costs.patches], [MAX_TOKENS, MAX_PATCHES], cost, cost[::-1], window, target_fill)
    assert sorted(packed.members.tolist()) == list(range(len(costs)))
    assert packed.offsets[0] == 0
    assert packed.offsets[-1] == len(costs)
    for part in parts(packed):
        assert len(part) > 0
        assert part.tolist() == sorted(part.tolist())
        assert costs.llm_tokens[part].sum() <= MAX_TOKENS
        assert costs.patches[part].sum() <= MAX_PATCHES


def best_number(tokens: list[int], limit: int) -> int:
    """The fewest micro-batches, by trying every place for every sample."""

    def place(rest: list[int], rooms: tuple[int, ...]) -> int:
        if not rest:
            return len(rooms)
        first, *others = rest
        tried = [place(others, (*rooms, limit - first))]
        for number, room in enumerate(rooms):
            if room >= first:
                tried.append(place(others, (*rooms[:number], room - first, *rooms[number + 1 :])))
        return min(tried)

    return place(tokens, ())


@pytest.mark.parametrize("seed", range(12))
def test_few_samples_need_at_most_one_micro_batch_more_than_the_best(seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(1, 11, 7).tolist()
    assert best_number(tokens, 10) <= len(pack_tokens(tokens, 10)) <= best_number(tokens, 10) + 1


def test_priority_and_not_cost_says_who_comes_first() -> None:
    tokens, cost = np.array([6, 5, 4, 3]), np.array([1, 1, 1, 1])
    packed = pack(
        [tokens], [10], cost, np.array([1, 2, 3, 4]), window=10, target_fill=0.9
    )  # two; 3 and 4, then 5 and 6
    assert [tokens[part].tolist() for part in parts(packed)] == [[5, 3], [6, 4]]


def test_nothing_packs_into_nothing() -> None:
    packed = pack([np.zeros(0, dtype=np.int32)], [10], *[np.zeros(0, dtype=np.int64)] * 2, window=10, target_fill=1.0)
    assert packed.offsets.tolist() == [0]
    assert len(packed.members) == 0
