"""Analysis of score tables: the published one to three decimals, others by hand."""

import numpy as np
import pytest
from scipy import stats

from lightning_apollo.study.analysis import (
    Outlier,
    SizeAgreement,
    View,
    compare_data,
    compare_sizes,
    compare_within,
    dominant_factor,
    explained,
    find_outlier,
    noise,
    outlier_of,
    smallest_like_largest,
    views,
)
from lightning_apollo.study.statistics import Agreement, Estimate
from lightning_apollo.study.table import RunScore, StudyTable, read_table
from tests.study.tables import PUBLISHED, score_table

ALL = View("all variants")


def r_squared(comparisons: list[SizeAgreement]) -> dict[tuple[str, str], float | None]:
    found = {(c.against, c.item): c.agreement.r_squared.value for c in comparisons}
    return {pair: None if value is None else round(value, 3) for pair, value in found.items()}


@pytest.fixture(scope="module")
def published() -> StudyTable:
    return read_table(PUBLISHED)


def test_the_published_r_squared_follow_from_the_table(published: StudyTable) -> None:
    found = r_squared(compare_sizes(published, ALL, all_pairs=True))
    assert found == {
        ("7B", "4B"): 0.938,
        ("7B", "1.5B"): 0.831,
        ("7B", "0.5B"): 0.694,
        ("4B", "1.5B"): 0.902,  # the paper prints 0.903
        ("4B", "0.5B"): 0.772,
        ("1.5B", "0.5B"): 0.736,
    }


def test_the_reanalysis_finds_what_carries_them(published: StudyTable) -> None:
    outlier = find_outlier(published, "design")
    assert outlier is not None
    assert (outlier.name, outlier.variants) == ("design 7", {"A/7", "B/7", "C/7"})
    assert dominant_factor(published, outlier) == "mixture"
    expected = {  # R² with 7B of 4B, 1.5B and 0.5B, and the variants
        "all variants": ([0.938, 0.831, 0.694], 21),
        "without design 7": ([0.913, 0.742, 0.523], 18),
        "means of each mixture removed": ([0.900, 0.686, 0.517], 21),
        "without design 7, then means of each mixture removed": ([0.446, 0.012, 0.054], 18),
        "means of each mixture removed, then without design 7": ([0.455, 0.021, 0.037], 18),
    }
    for view in views("mixture", outlier):
        comparisons = compare_sizes(published, view)
        assert [c.item for c in comparisons] == ["4B", "1.5B", "0.5B"]
        assert (list(r_squared(comparisons).values()), comparisons[0].agreement.num_variants) == expected[view.title]
    within = compare_within(published, "mixture", outlier)
    assert [value and round(value, 2) for value in (c.agreement.r_squared.value for c in within)] == [
        *(0.85, 0.12, 0.33),  # mixture A: 4B, 1.5B, 0.5B
        *(0.08, 0.12, 0.18),
        *(0.01, 0.12, 0.00),
    ]
    assert {c.agreement.num_variants for c in within} == {6}


def test_what_is_left_at_4b_rests_on_two_models(published: StudyTable) -> None:
    gone = outlier_of(published, "design", "7").variants | {"A/3", "A/5"}
    without = View("means of each mixture removed", "mixture", Outlier("those", gone))
    assert compare_sizes(published, without)[0].agreement.r_squared.value == pytest.approx(0.045, abs=5e-4)


def test_the_order_of_the_views_of_one_mean_is_that_of_the_scores() -> None:
    """Means over all four variants, or over the three that are left."""
    table = score_table({"s": [1.0, 2.0, 3.0, 6.0], "l": [1.0, 2.0, 3.0, 6.0]}, {"f": ["a", "a", "b", "b"]})
    outlier = outlier_of(table, None, "v3")
    column = table.means[:, 0, 0]
    kept_means = View("", "f", outlier).columns(table, column, column)[0]
    assert kept_means.tolist() == [-0.5, 0.5, -1.5]
    assert View("", "f", outlier, drops_first=True).columns(table, column, column)[0].tolist() == [-0.5, 0.5, 0.0]


def test_only_variants_with_both_scores_are_compared() -> None:
    table = score_table({"s": [1.0, None, 3.0, 2.0, 5.0], "l": [1.0, 9.0, 3.0, None, 4.0]})
    (comparison,) = compare_sizes(table, ALL)
    assert comparison.agreement.num_variants == 3
    assert comparison.agreement.r_squared.value == pytest.approx(stats.pearsonr([1, 3, 5], [1, 3, 4]).statistic ** 2)


@pytest.mark.parametrize(
    ("taus", "expected"),
    [
        ([(0.9, 0.5), (0.85, 0.1)], "smallest"),
        ([(0.9, 0.5), (0.7, 0.1)], "middle"),
        ([(0.7, 0.5), (0.9, 0.5)], None),  # what lies between fails
        ([(0.9, 0.0), (0.9, 0.5)], None),  # may be chance
        ([(0.9, None), (0.9, 0.5)], None),  # no interval
        ([(None, None), (0.9, 0.5)], None),
        ([(0.8, 0.01), (0.8 - 1e-12, 0.01)], "smallest"),  # the threshold itself
        ([], None),
    ],
)
def test_the_smallest_size_that_ranks_like_the_largest(
    taus: list[tuple[float | None, float | None]], expected: str | None
) -> None:
    comparisons = [
        SizeAgreement("", name, "largest", Agreement(9, Estimate(), Estimate(), Estimate(tau, low, 1.0), None))
        for name, (tau, low) in zip(("middle", "smallest"), taus, strict=False)
    ]
    assert smallest_like_largest(comparisons) == expected


def test_the_smallest_size_of_hand_made_scores() -> None:
    order = [float(number) for number in range(8)]
    swapped = [1.0, 0.0, *order[2:]]  # one pair of 28: tau 26/28
    turned = order[::-1]
    table = score_table({"xs": turned, "s": swapped, "m": [10 * score for score in order], "l": order})
    comparisons = compare_sizes(table, ALL)
    assert [c.item for c in comparisons] == ["m", "s", "xs"]
    assert [c.agreement.kendall.value for c in comparisons] == pytest.approx([1.0, 26 / 28, -1.0])
    assert smallest_like_largest(comparisons) == "s"
    assert smallest_like_largest(comparisons, threshold=0.95) == "m"


def test_data_sizes_are_compared_at_the_largest_llm() -> None:
    scores = {("s", "few"): [3.0, 2.0, 1.0], ("s", "many"): [1.0, 2.0, 3.0]}
    scores |= {("l", "few"): [1.0, 2.0, 4.0], ("l", "many"): [1.0, 2.0, 3.0]}
    runs = [RunScore(f"v{v}", *place, 0, score) for place, own in scores.items() for v, score in enumerate(own)]
    table = StudyTable(tuple(runs), ("v0", "v1", "v2"), {"s": 1.0, "l": 2.0}, {"few": 10.0, "many": 20.0}, {})
    (comparison,) = compare_data(table, ALL)
    assert (comparison.item, comparison.against, comparison.agreement.kendall.value) == ("few", "many", 1.0)
    assert compare_sizes(table, ALL)[0].agreement.r_squared.value == pytest.approx(1.0)  # at "many"


@pytest.mark.parametrize(
    ("large", "expected"),
    [
        ([9.0, 9.1, 9.2, 9.3, 5.0], "variant v4"),
        ([5.0, 9.1, 9.2, 9.3, 5.1], None),  # not the lowest at every size
        ([9.0, 9.1, 9.2, 9.3, 8.9], None),  # the lowest, but not far below
        ([9.0, 9.1, None, 9.3, 5.0], None),
    ],
)
def test_an_outlier_is_far_below_at_every_size(large: list[float | None], expected: str | None) -> None:
    outlier = find_outlier(score_table({"s": [4.0, 4.1, 4.2, 4.3, 1.0], "l": large}), None)
    assert (outlier and outlier.name) == expected


def test_four_variants_have_no_outlier() -> None:
    assert find_outlier(score_table({"s": [4.0, 4.1, 4.2, 0.0], "l": [4.0, 4.1, 4.2, 0.0]}), None) is None


def test_eta_squared_is_that_of_an_analysis_of_variance() -> None:
    groups = [[1.0, 2.0, 4.0], [3.0, 5.0, 5.5], [9.0, 7.0, 8.0]]
    table = score_table(
        {"s": [score for group in groups for score in group]}, {"f": [level for level in "abc" for _ in range(3)]}
    )
    ratio = stats.f_oneway(*groups).statistic * 2 / 6
    assert explained(table, "f", None) == {"s": pytest.approx(ratio / (1 + ratio))}


def test_a_factor_with_a_level_for_each_variant_is_not_the_dominant_one() -> None:
    levels = {"own": ["a", "b", "c", "d"], "pair": ["x", "x", "y", "y"], "other": ["x", "y", "x", "y"]}
    table = score_table({"s": [1.0, 1.2, 3.0, 3.1]}, levels)
    assert dominant_factor(table, None) == "pair"
    assert dominant_factor(score_table({"s": [1.0, 2.0]}, {"own": ["a", "b"]}), None) is None
    assert dominant_factor(score_table({"s": [2.0, 2.0, 2.0]}, {"f": ["a", "a", "b"]}), None) is None


def test_noise_by_hand() -> None:
    scores = [("a", 0, 1.0), ("a", 1, 3.0), ("b", 0, 5.0), ("b", 1, 5.0), ("c", 0, 8.0)]
    runs = tuple(RunScore(variant, "s", "d", seed, score) for variant, seed, score in scores)
    (found,) = noise(StudyTable(runs, ("a", "b", "c"), {"s": 1.0}, {"d": 1.0}, {}))
    assert found.seed_sd == pytest.approx(1.0)  # squares 2 and 0 over 2 degrees of freedom
    assert found.variant_sd == pytest.approx(3.0)  # means 2, 5, 8
    assert found.noise_share == pytest.approx((1 / 2 + 1 / 2 + 1) / 3 / 9)


def test_noise_shares_stop_at_one_and_one_seed_has_none() -> None:
    (found,) = noise(score_table({"s": [1.0, 2.0]}))
    assert (found.seed_sd, found.variant_sd, found.noise_share) == (None, pytest.approx(np.sqrt(0.5)), None)
    runs = tuple(RunScore(v, "s", "d", seed, float(seed)) for v in "ab" for seed in range(2))
    (loud,) = noise(StudyTable((*runs, RunScore("c", "s", "d", 0, 0.51)), tuple("abc"), {"s": 1.0}, {"d": 1.0}, {}))
    assert loud.noise_share == 1.0
