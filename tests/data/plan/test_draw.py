"""Draws of an epoch against passes and shares by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.plan_costs import mixed_costs
from lightning_apollo.data.plan.config import PlanError
from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.draw import draw_epoch, passes_of_sources, realised_shares
from tests.data.plan_samples import samples, some_samples

COSTS = samples({"text": [1] * 40, "images": [4] * 20, "videos": [10] * 10})  # 40, 80 and 100 tokens


@pytest.mark.parametrize(
    ("weights", "unit", "expected"),
    [
        ({}, "passes", {"text": 1.0, "images": 1.0, "videos": 1.0}),
        ({}, "tokens", {"text": 1.0, "images": 1.0, "videos": 1.0}),
        ({"videos": 2.5, "text": 0.0}, "passes", {"videos": 2.5}),
        ({"text": 1.0, "images": 5.0}, "samples", {"text": 10 / 40, "images": 50 / 20}),  # of 60 samples
        ({"images": 0.5, "videos": 1.0}, "tokens", {"images": 60 / 80, "videos": 120 / 100}),  # of 180 tokens
    ],
)
def test_passes_by_hand(weights: dict[str, float], unit: str, expected: dict[str, float]) -> None:
    assert passes_of_sources(COSTS, weights, unit) == pytest.approx(expected)


def test_whole_passes_and_a_remainder_without_replacement() -> None:
    drawn = draw_epoch(COSTS, {"text": 0.25, "videos": 2.5}, "passes", seed=0, epoch=0)
    assert drawn.dtype == np.int32
    counts = Counter(drawn.tolist())
    text, videos = [counts[row] for row in range(40)], [counts[row] for row in range(60, 70)]
    assert sorted(text) == [0] * 30 + [1] * 10
    assert sorted(videos) == [2] * 5 + [3] * 5
    assert len(drawn) == 10 + 25


def test_every_epoch_and_seed_draws_others() -> None:
    def draws(seed: int, epoch: int) -> list[int]:
        return draw_epoch(COSTS, {"text": 0.5, "videos": 1.5}, "passes", seed, epoch).tolist()

    first = draws(3, 1)
    np.random.default_rng(0).random()  # other users of random numbers change nothing
    assert first == draws(3, 1)
    for other in (draws(3, 2), draws(4, 1)):
        assert other != first
        assert set(other) != set(first)


@given(costs=some_samples(), weights=st.lists(st.floats(0.5, 5.0), min_size=3, max_size=3))
@settings(derandomize=True, deadline=None)
def test_a_sample_is_drawn_as_often_as_its_source_is_passed(costs: SampleCosts, weights: list[float]) -> None:
    passes = dict(zip(costs.source_names, weights, strict=False))
    counts = Counter(draw_epoch(costs, passes, "passes", seed=0, epoch=0).tolist())
    for name, number in passes.items():
        of_source = [counts.pop(row, 0) for row in costs.source_range(name)]
        assert set(of_source) <= {int(number), int(number) + 1}
        assert abs(sum(of_source) - number * len(of_source)) <= 0.5 + 1e-9
    assert not counts


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_shares_of_ten_thousand_draws_are_within_half_a_percent(unit: str) -> None:
    costs = mixed_costs(10_000)
    weights = {"text": 5.0, "image": 3.0, "video": 2.0}
    drawn = draw_epoch(costs, weights, unit, seed=0, epoch=0)
    assert realised_shares(costs, drawn, unit) == pytest.approx({"text": 0.5, "image": 0.3, "video": 0.2}, abs=1e-3)
    begin = drawn[: len(drawn) // 4]  # a stretch has the shares too
    assert realised_shares(costs, begin, unit) == pytest.approx({"text": 0.5, "image": 0.3, "video": 0.2}, abs=5e-3)


def test_an_epoch_without_a_sample_says_so() -> None:
    with pytest.raises(PlanError, match=r"epoch.*weights"):
        draw_epoch(COSTS, {"text": 0.001, "videos": 0.01}, "passes", seed=0, epoch=0)


def test_shares_by_hand() -> None:
    drawn = np.array([0, 1, 60], dtype=np.int32)  # two texts of one token, a video of ten
    assert realised_shares(COSTS, drawn, "samples") == pytest.approx({"text": 2 / 3, "images": 0.0, "videos": 1 / 3})
    assert realised_shares(COSTS, drawn, "tokens") == pytest.approx({"text": 1 / 6, "images": 0.0, "videos": 5 / 6})


def test_repetitions_of_a_sample_are_far_apart() -> None:
    drawn = draw_epoch(COSTS, {"videos": 4.0, "text": 1.0}, "passes", seed=0, epoch=0)
    quarters = drawn.reshape(4, 20)
    for quarter in quarters:
        of_videos = quarter[quarter >= 60]
        assert 9 <= len(of_videos) <= 11
        assert len(set(of_videos.tolist())) >= 9


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"clips": 1.0}, r"^weights .*\bclips; .*text, images, none"),
        ({"text": -1.0}, r"^weights\.text: -1 .*\b0\b"),
        ({"text": float("nan")}, r"^weights\.text: nan "),
        ({"none": 1.0}, r"^weights: source none\b.*samples"),
        ({"text": 0.0}, r"^weights: .*\b0\b"),
    ],
)
def test_a_mixture_that_cannot_be_drawn(weights: dict[str, float], message: str) -> None:
    costs = samples({"text": [1, 2], "images": [3], "none": []})
    with pytest.raises(PlanError, match=message):
        draw_epoch(costs, weights, "samples", seed=0, epoch=0)
    assert sorted(draw_epoch(costs, {}, "samples", seed=0, epoch=0).tolist()) == [0, 1, 2]
