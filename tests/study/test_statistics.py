"""Agreement statistics against scipy, resample by resample. Intervals against scipy's bootstrap."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lightning_apollo.study.statistics import Estimate, draw_counts, measure_agreement, p_within, resampled
from tests.study.tables import correlated


@pytest.mark.parametrize("num_rows", [3, 4, 7, 21])
def test_figures_are_scipys(num_rows: int) -> None:
    x, y = correlated(num_rows)
    found = measure_agreement(x, y, num_resamples=50)
    assert found.num_variants == num_rows
    assert found.r_squared.value == pytest.approx(stats.pearsonr(x, y).statistic ** 2)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.p_value == pytest.approx(stats.kendalltau(x, y, alternative="greater").pvalue)


def test_every_resample_is_what_scipy_says_of_its_rows() -> None:
    x, y = correlated(5)
    counts = draw_counts(5, 300, seed=3).astype(int)
    assert (counts.sum(axis=1) == 5).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
    expected = []
    for count in counts:
        rows = np.repeat(np.arange(5), count)
        if len(set(x[rows])) == 1 or len(set(y[rows])) == 1:
            expected.append([np.nan] * 3)
        else:
            functions = (stats.pearsonr, stats.spearmanr, stats.kendalltau)
            expected.append([function(x[rows], y[rows]).statistic for function in functions])
    assert np.isnan(expected).any()
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(np.stack(resampled(x, y, 300, seed=3), axis=1), expected, atol=1e-12)


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    x, y = correlated(15, seed=1)

    def r_squared(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return stats.pearsonr(one, other).statistic ** 2

    drawn = stats.bootstrap(
        (x, y), r_squared, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    found = measure_agreement(x, y).r_squared
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.03)  # both drawn, from other numbers


def test_the_seed_alone_decides_the_interval() -> None:
    x, y = correlated(9)
    assert measure_agreement(x, y, None, 200, seed=1) == measure_agreement(x, y, None, 200, seed=1)
    assert measure_agreement(x, y, None, 200, seed=1).spearman != measure_agreement(x, y, None, 200, seed=2).spearman


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0, 2.0], [2.0, 4.0]),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0], [0.1 + 0.2, 0.3, 0.3]),  # equal but for rounding
    ],
)
def test_what_has_no_answer_is_not_defined(x: list[float], y: list[float]) -> None:
    found = measure_agreement(np.array(x), np.array(y), num_resamples=50)
    assert (found.r_squared, found.spearman, found.kendall, found.p_value) == (*[Estimate()] * 3, None)


def test_an_interval_needs_resamples_on_which_the_figure_is_defined() -> None:
    """Of 3 rows, 1 in 9 resamples is one row three times."""
    found = measure_agreement(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
    assert found.kendall == Estimate(1.0)
    assert measure_agreement(np.arange(4.0), np.arange(4.0)).kendall == Estimate(1.0, 1.0, 1.0)
    assert measure_agreement(np.arange(4.0), np.arange(4.0)).p_value == pytest.approx(1 / 24)


def test_rows_are_exchanged_within_their_group_alone() -> None:
    x, y = np.array([-1.0, 1.0, -2.0, 2.0]), np.array([-2.0, 2.0, -1.0, 1.0])
    assert p_within(x, y, "aabb", 100, seed=0) == 1 / 4  # of the four orders only the one that was found
    assert p_within(x, -y, "aabb", 100, seed=0) == 1.0
    assert p_within(x, y[[2, 1, 0, 3]], "abab", 100, seed=0) == 3 / 4  # 4 of 6 pairs; the others have 2, 4 and 6
    assert measure_agreement(x, y, "aabb").p_value == 1 / 4


def test_one_group_is_all_orders() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 6))
    exact = stats.kendalltau(x, y, alternative="greater").pvalue
    assert p_within(x, y, "aaaaaa", 720, seed=0) == pytest.approx(exact)
    assert p_within(x, y, "aaaaaa", 719, seed=0) == pytest.approx(exact, abs=0.05)  # drawn
