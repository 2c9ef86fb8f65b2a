"""Paired differences against values computed by hand and against the normal approximation."""

import random

import pytest

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.answer_files import Answer
from lightning_apollo.evaluation.compare import compare
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.registry import BENCHMARKS

NUM = 600
SHAPES = BENCHMARKS["shapes"]


def questions(num: int = NUM) -> list[Question]:
    parts = [(MediaPart("video", f"{n}.mp4"), TextPart("?")) for n in range(num)]
    return [
        Question(str(n), part, ("yes",), "same_text", groups=(("kind", "even" if n % 2 == 0 else "odd"),))
        for n, part in enumerate(parts)
    ]


def answers(right: list[bool], loss: float | None = None) -> dict[str, Answer]:
    return {
        str(n): Answer(str(n), "full", "", "yes" if is_right else "no", loss and loss * (1 + n % 3), 1 + n % 3)
        for n, is_right in enumerate(right)
    }


def test_the_interval_is_that_of_the_pairs() -> None:
    """Two models alike but for every tenth question, which the second alone answers: the variance is that of the differences,
    far below what two independent models would have."""
    draw = random.Random(0)
    first = [draw.random() < 0.5 and n % 10 > 0 for n in range(NUM)]
    second = [right or n % 10 == 0 for n, right in enumerate(first)]
    comparison = compare(SHAPES, questions(), answers(first), answers(second), ("one", "two"), "full")
    everything = comparison.scores[0]
    assert everything.value == pytest.approx(10.0)
    assert everything.first == pytest.approx(100 * sum(first) / NUM)
    half = 1.96 * (0.1 * 0.9 / NUM) ** 0.5 * 100
    assert (everything.low, everything.high) == pytest.approx((10 - half, 10 + half), abs=0.4)
    assert [one.name for one in comparison.scores] == ["all", "kind: even", "kind: odd"]
    assert comparison.scores[1].value == pytest.approx(20.0)  # every tenth is even
    assert (comparison.scores[2].value, comparison.scores[2].low, comparison.scores[2].high) == (0.0, 0.0, 0.0)
    assert comparison.remark() == "two is better by 10.0 on the 600 questions that both have answered."
    assert comparison.losses == ()


def test_a_model_beside_itself_differs_by_nothing() -> None:
    same = answers([n % 3 == 0 for n in range(60)], loss=0.7)
    comparison = compare(SHAPES, questions(60), same, same, ("one", "two"), "full")
    for difference in (*comparison.scores, *comparison.losses):
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert "do not tell the two models apart" in comparison.remark()


def test_losses_are_a_token_and_scenes_are_drawn_together() -> None:
    first, second = answers([True] * 60, loss=0.7), answers([True] * 60, loss=0.5)
    comparison = compare(SHAPES, questions(60), first, second, ("one", "two"), "full")
    loss = comparison.losses[0]
    assert (loss.first, loss.second, loss.value) == pytest.approx((0.7, 0.5, -0.2))
    assert (loss.low, loss.high) == pytest.approx((-0.2, -0.2))  # every token is likelier by as much
    scores, losses = comparison.grids()
    assert scores.head == ("", "one", "two", "difference", "95 % interval", "answers")
    assert losses.rows[0] == ("all", "0.700", "0.500", "-0.200", "-0.200 to -0.200", "60")


def test_what_one_model_has_not_answered_does_not_count() -> None:
    first, second = answers([True] * 10), answers([False] * 10)
    del first["3"], second["4"]
    comparison = compare(SHAPES, questions(10), first, second, ("one", "two"), "full")
    assert (comparison.scores[0].num_answers, comparison.scores[0].value) == (8, -100.0)
    assert comparison.remark().startswith("one is better by 100.0")
    with pytest.raises(BenchmarkError, match=r"question.*both"):
        compare(SHAPES, questions(10), {}, second, ("one", "two"), "full")
