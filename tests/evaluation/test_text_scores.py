"""Scores of free answers against values computed by hand."""

import pytest

from lightning_apollo.data.conversation import TextPart
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.question import Question


@pytest.mark.parametrize(
    ("metric", "answer", "expected", "score"),
    [
        ("exact_text", "The rabbit is grey.", "rabbit is grey", 1.0),
        ("exact_text", "“Red”!", "red", 1.0),
        ("exact_text", "red car", "car red", 0.0),
        ("exact_text", "15", "1.5", 0.0),
        ("exact_text", "3", "-3", 0.0),
        ("exact_text", "C", "C++", 0.0),
        ("exact_text", "a", "A", 1.0),  # nothing is left without the article
        ("exact_text", "the", "a", 0.0),
        ("exact_text", "ＲＥＤ", "red", 1.0),  # full width
        ("exact_text", "", "red", 0.0),
        ("token_f1", "a grey rabbit yawns", "The big grey rabbit yawns.", 2 * 3 / (3 + 4)),
        ("token_f1", "rabbit rabbit rabbit", "a rabbit", 2 * 1 / (3 + 1)),  # a token counts as often as both have it
        ("token_f1", "a dog", "a cat", 0.0),  # articles alone are nothing in common
        ("token_f1", "", "cat", 0.0),
        ("token_f1", "红车", "红色的车", 2 * 2 / (2 + 4)),
        ("token_f1", "well known", "well-known", 1.0),
        ("number", "There are 3 cats.", "3", 1.0),
        ("number", "3", "3.0", 1.0),
        ("number", "3 of 10", "3", 0.0),  # which of the two is not said
        ("number", "3, yes 3", "3", 1.0),
        ("number", "1,200", "1200", 1.0),
        ("number", "-5", "5", 0.0),
        ("number", "many", "3", 0.0),
    ],
)
def test_scores_by_hand(metric: str, answer: str, expected: str, score: float) -> None:
    assert score_of(answer, Question("q", (TextPart("?"),), (expected,), metric)) == pytest.approx(score)


def test_the_best_of_several_expected_answers_counts() -> None:
    question = Question("q", (TextPart("?"),), ("big dog", "small dog"), "token_f1")
    assert score_of("a small dog", question) == 1.0
