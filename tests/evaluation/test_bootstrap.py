"""Intervals against the normal approximation, which holds for many scenes."""

import random

import pytest

from lightning_apollo.evaluation import bootstrap


def test_the_interval_of_independent_answers_is_the_binomial_one() -> None:
    scores = [1.0] * 300 + [0.0] * 700
    low, high = bootstrap.interval(scores, ["x"] * 1000, [str(n) for n in range(1000)], bootstrap.over_questions)
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5 * 100
    assert (low, high) == pytest.approx((30 - half, 30 + half), abs=0.35)


def test_questions_of_a_scene_are_drawn_together() -> None:
    """Ten like answers about each of 100 scenes tell as much as one: the interval is √10 as wide."""
    scores = [float(scene < 30) for scene in range(100) for _ in range(10)]
    alone = [str(n) for n in range(1000)]
    together = [str(n // 10) for n in range(1000)]
    widths = [
        high - low
        for low, high in (
            bootstrap.interval(scores, ["x"] * 1000, s, bootstrap.over_questions) for s in (alone, together)
        )
    ]
    assert widths[1] / widths[0] == pytest.approx(10**0.5, rel=0.12)


def test_the_same_seed_draws_the_same() -> None:
    scores = [random.Random(n).random() for n in range(50)]
    arguments = (scores, ["x"] * 50, [str(n) for n in range(50)], bootstrap.over_questions)
    assert bootstrap.interval(*arguments) == bootstrap.interval(*arguments)
    assert bootstrap.interval(*arguments) != bootstrap.interval(*arguments, seed=1)


def test_small_categories_widen_the_mean_of_categories() -> None:
    """Two categories of 1000 and 10 answers: the variance is a quarter of the sum of theirs, almost all of it the small one's."""
    scores = [float(n % 2) for n in range(1010)]
    categories = ["large"] * 1000 + ["small"] * 10
    scenes = [str(n) for n in range(1010)]
    low, high = bootstrap.interval(scores, categories, scenes, bootstrap.over_categories)
    half = 1.96 * (0.25 / 1000 + 0.25 / 10) ** 0.5 / 2 * 100
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_mme_counts_whole_images() -> None:
    """All answers right, but those about one half of the images: 50 + 50 in any draw's mean."""
    scores = [1.0, 1.0, 0.0, 0.0] * 200
    scenes = [str(n // 2) for n in range(800)]
    low, high = bootstrap.interval(scores, ["x"] * 800, scenes, bootstrap.of_mme)
    half = 1.96 * (0.25 / 400) ** 0.5 * 200
    assert (low, high) == pytest.approx((100 - half, 100 + half), abs=2)


def test_a_category_that_is_not_drawn_is_left_out() -> None:
    low, high = bootstrap.interval([1.0, 1.0], ["x", "y"], ["1", "2"], bootstrap.over_categories)
    assert (low, high) == (100.0, 100.0)
    assert bootstrap.interval([1.0, 1.0], ["x", "y"], ["1", "2"], bootstrap.of_mme) == (400.0, 400.0)
    assert bootstrap.interval([1.0], ["x"], ["1"], bootstrap.out_of_thousand) == (1000.0, 1000.0)
