"""Curation against a table worked out by hand, and properties of any table."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from lightning_apollo.evaluation.curate.choose import (
    CandidateQuestion,
    Correlation,
    CurateConfig,
    ResultTable,
    correlate,
    correlate_random,
    curate,
    leave_one_out,
    questions_per_category,
    tabulate,
)
from lightning_apollo.evaluation.results import QuestionResult, ResultsError
from tests.evaluation.hand_table import ANSWERS, ENTROPIES, MODELS, OUTCOMES, RESULTS, kept, results_of

TOP_3 = CurateConfig(top=3)
SETTINGS = settings(derandomize=True, deadline=None)


def test_a_table_by_hand() -> None:
    curation = curate(tabulate(RESULTS), TOP_3)
    table = curation.table
    assert table.models == tuple(MODELS)
    assert [question.question_id for question in table.questions] == list(ANSWERS)
    assert table.shares("full").tolist() == [0.5, 0.25, 0.75, 1, 0.5, 0.5, 0.75, 0]
    assert table.shares("single_frame").tolist() == [0, 0.5, 0, 0, 0.75, 0, 1, 0]
    assert table.shares("blind").tolist() == [0, 0.5, 0, 0, 0, 0.75, 1, 0]
    assert curation.entropies.tolist() == pytest.approx(list(ENTROPIES.values()))
    assert {name: curation.outcome(index) for index, name in enumerate(ANSWERS)} == OUTCOMES
    assert table.scores("full", np.ones(8, dtype=bool)).tolist() == [7 / 8, 5 / 8, 4 / 8, 1 / 8]
    assert table.scores("full", curation.is_kept).tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_entropies_are_those_of_the_answers_themselves() -> None:
    table = tabulate(RESULTS)
    for index, (_, full, _, _) in enumerate(ANSWERS.values()):
        counts = list(Counter(full).values())
        assert curate(table, TOP_3).entropies[index] == pytest.approx(entropy(counts, base=2))
        assert curate(table, TOP_3).entropies[index] == pytest.approx(-sum(c / 4 * math.log2(c / 4) for c in counts))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CurateConfig(), {"q1", "q2", "q3", "q4", "q8"}),
        (CurateConfig(top=1), {"q1"}),
        (CurateConfig(per_category=1), {"q1", "q8"}),
        (CurateConfig(top=1, per_category=3), {"q1", "q2", "q3", "q8"}),  # in the place of top
        (CurateConfig(max_share_without_video=0.49), {"q1", "q3", "q4", "q8"}),
        (CurateConfig(max_share_without_video=0.75), set(ANSWERS) - {"q7"}),
        (CurateConfig(max_share_without_video=1.0), set(ANSWERS)),
    ],
)
def test_what_each_setting_keeps(config: CurateConfig, expected: set[str]) -> None:
    assert kept(curate(tabulate(RESULTS), config)) == expected


@pytest.mark.parametrize(
    "wrong", [{"top": 0}, {"per_category": 0}, {"max_share_without_video": 1.01}, {"max_share_without_video": -0.1}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CurateConfig(**wrong)


@pytest.mark.parametrize(
    ("top", "sizes", "expected"),
    [
        (9, {"x": 5, "y": 5, "z": 5}, {"x": 3, "y": 3, "z": 3}),
        (9, {"x": 1, "y": 9, "z": 9}, {"x": 1, "y": 4, "z": 4}),
        (10, {"x": 8, "y": 2, "z": 7}, {"x": 4, "y": 2, "z": 4}),
        (11, {"x": 8, "y": 2, "z": 7}, {"x": 5, "y": 2, "z": 4}),  # the odd one to the larger category
        (99, {"x": 8, "y": 2}, {"x": 8, "y": 2}),
        (1, {"x": 3, "y": 2}, {"x": 1, "y": 0}),
        (4, {}, {}),
    ],
)
def test_the_top_is_shared_out_evenly(top: int, sizes: dict[str, int], expected: dict[str, int]) -> None:
    assert questions_per_category(top, sizes) == expected


def test_correlations_by_hand() -> None:
    table = tabulate(RESULTS)
    everything = table.scores("full", np.ones(8, dtype=bool))  # 7, 5, 4, 1 eighths
    correlation = correlate(everything, table.scores("full", curate(table, TOP_3).is_kept))  # 2, 1, 0, 0 thirds
    assert correlation.pearson == pytest.approx(6.25 / math.sqrt(18.75 * 2.75))
    assert correlation.spearman == pytest.approx(4.5 / math.sqrt(5 * 4.5))  # ranks 4 3 2 1 and 4 3 1½ 1½


def test_a_model_is_scored_on_what_the_others_choose() -> None:
    # Without any one model two of three answer q2 from one frame or from text; q1, q3 and q8 are the top 3 then.
    assert leave_one_out(tabulate(RESULTS), TOP_3).tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])


def test_leaving_out_the_only_model_leaves_nothing() -> None:
    table = tabulate(result for result in RESULTS if result.model == "a")
    assert np.isnan(leave_one_out(table, TOP_3)).all()
    assert correlate_random(table, 3) == Correlation(None, None)


def test_leaving_out_a_model_that_alone_needs_the_video_leaves_nothing_for_it() -> None:
    table = tabulate(results_of({"q1": ("ocr", "1100", "1100", "0000")}))
    assert kept(curate(table, TOP_3)) == {"q1"}
    assert np.isnan(leave_one_out(table, TOP_3)).tolist() == [False, False, True, True]


@pytest.mark.parametrize("scores", [[], [0.5], [0.2, 0.9], [0.5, 0.5, 0.5], [0.1, 0.2, math.nan]])
def test_where_a_correlation_is_not_defined(scores: list[float]) -> None:
    others = np.linspace(0, 1, len(scores))
    for pair in ((np.array(scores), others), (others, np.array(scores))):
        assert correlate(*pair) == Correlation(None, None)


def test_a_random_choice_correlates_like_a_part_with_its_whole() -> None:
    rights = np.random.default_rng(0).random((200, 400)) < 0.5  # models that differ by chance alone
    questions = tuple(CandidateQuestion("hand", str(number), "ocr") for number in range(400))
    table = ResultTable(tuple(map(str, range(200))), questions, {"full": rights})
    assert correlate_random(table, 400).pearson == pytest.approx(1)
    assert correlate_random(table, 100).pearson == pytest.approx(math.sqrt(100 / 400), abs=0.03)
    assert correlate_random(table, 100) == correlate_random(table, 100)


# Properties of any table


@st.composite
def tables(draw: st.DrawFn) -> list[QuestionResult]:
    num_models = draw(st.integers(1, 4))
    bits = st.integers(0, 2**num_models - 1).map(lambda number: f"{number:0{num_models}b}")
    row = st.tuples(st.sampled_from(["ocr", "spatial", "reasoning"]), bits, bits, bits)
    rows = draw(st.lists(row, min_size=1, max_size=12))
    return results_of({f"q{index}": answers for index, answers in enumerate(rows)})


configs = st.builds(
    CurateConfig,
    top=st.integers(1, 14),
    per_category=st.none() | st.integers(1, 4),
    max_share_without_video=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]),
)


def share_right(results: Iterable[QuestionResult], name: str, mode: str) -> Fraction:
    rights = [result.is_right for result in results if (result.question_id, result.mode) == (name, mode)]
    return Fraction(sum(rights), len(rights))


@SETTINGS
@given(tables(), configs)
def test_limits_hold_and_no_better_question_is_left_behind(results: list[QuestionResult], config: CurateConfig) -> None:
    curation = curate(tabulate(results), config)
    category_of = {question.question_id: question.category for question in curation.table.questions}
    stays = kept(curation)
    needs_video = {
        name
        for name in category_of
        if all(
            float(share_right(results, name, m)) <= config.max_share_without_video for m in ("single_frame", "blind")
        )
    }
    assert stays <= needs_video
    counts = Counter(category_of[name] for name in stays)
    if config.per_category is None:
        assert len(stays) == min(config.top, len(needs_video))
    else:
        assert all(count <= config.per_category for count in counts.values())
    closeness = {name: -abs(share_right(results, name, "full") - Fraction(1, 2)) for name in category_of}
    for name in stays:
        for other in needs_video - stays:
            if category_of[other] == category_of[name]:
                assert (-closeness[name], name) < (-closeness[other], other)


@SETTINGS
@given(tables(), configs, st.randoms(use_true_random=False))
def test_the_order_of_results_does_not_matter(
    results: list[QuestionResult], config: CurateConfig, random: Random
) -> None:
    shuffled = random.sample(results, len(results))
    first, second = (curate(tabulate(rows), config) for rows in (results, shuffled))
    assert first.table.questions == second.table.questions
    assert first.is_kept.tolist() == second.is_kept.tolist()


@SETTINGS
@given(tables(), configs)
def test_a_curated_set_is_kept_whole(results: list[QuestionResult], config: CurateConfig) -> None:
    stays = kept(curate(tabulate(results), config))
    left = [result for result in results if result.question_id in stays]
    assert not left or kept(curate(tabulate(left), config)) == stays


# What cannot be curated


def without(**fields: str) -> list[QuestionResult]:
    return [result for result in RESULTS if any(getattr(result, name) != value for name, value in fields.items())]


def with_other(**fields: str) -> list[QuestionResult]:
    return [*RESULTS[:-1], replace(RESULTS[-1], **fields)]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], r"results.*files"),
        (
            without(model="b", mode="blind"),
            r"^b .*\bblind: .*full, single_frame, blind$",
        ),
        (
            without(model="c", question_id="q3"),
            r"^hand q3: c .*\bblind\b",
        ),
        (
            without(model="c", question_id="q3", mode="full"),
            r"^hand q3: c .*\bfull\b",
        ),
        ([*RESULTS, RESULTS[0]], r"^hand q1: a .*\bfull\b"),
        (
            with_other(category="ocr"),
            r"^hand q8: .*category .*'reasoning' for a .*'ocr' for d\b",
        ),
        (
            with_other(expected="2"),
            r"^hand q8: .*expected .*'1' for a .*'2' for d\b",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(results: list[QuestionResult], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        tabulate(results)


def test_benchmarks_may_share_ids() -> None:
    table = tabulate([*RESULTS, *(replace(result, benchmark="other") for result in RESULTS)])
    assert len(table.questions) == 16
    assert np.count_nonzero(curate(table, CurateConfig(per_category=1)).is_kept) == 2
