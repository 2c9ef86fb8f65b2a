"""Scores against values computed by hand; sums over ranks against one process."""

import json
from pathlib import Path

import pytest
import torch
from torch import distributed

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.metrics import SCORES, ExactMatch, MeanOfCategories, MmeScore, score_of
from lightning_apollo.evaluation.predictions import Prediction, accuracy
from lightning_apollo.evaluation.question import Question, lettered
from lightning_apollo.inference.parsers import Choice
from tests.evaluation.shapes_questions import shapes_question
from tests.launch import launch


def question(metric: str, *answers: str, choices: tuple[Choice, ...] = ()) -> Question:
    return Question("q", (TextPart("?"),), answers, metric, choices)


def test_exact_match_counts_by_hand() -> None:
    metric = ExactMatch()
    for answer, expected in (("red", "red"), (" Red ", "red"), ("red blue", "red"), ("", "red")):
        metric.update(answer, expected)
    assert float(metric.compute()) == 0.5


def test_no_answer_is_no_score() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert float(ExactMatch().compute()) == 0.0


@pytest.mark.parametrize(
    ("answers", "expected"), [(("a", "b"), {"order": 1.0, "count": 1.0}), (("b", "b"), {"order": 0.0, "count": 1.0})]
)
def test_accuracy_is_by_kind(answers: tuple[str, str], expected: dict[str, float]) -> None:
    questions = [
        shapes_question("1", "v.mp4", "Q?", "a", "order", True, ("a", "b")),
        shapes_question("2", "v.mp4", "Q?", "b", "count", True, ("a", "b", "c", "d")),
    ]
    predictions = [Prediction(question, answer) for question, answer in zip(questions, answers, strict=True)]
    assert accuracy(predictions) == expected


@pytest.mark.parametrize(
    ("metric", "answer", "expected", "score"),
    [
        ("same_text", " Two ", ["two"], 1.0),
        ("same_text", "two.", ["two"], 0.0),
        ("short_answer", "The Red car.", ["red car"], 1.0),
        ("short_answer", "a dog", ["cat", "dog"], 1.0),
        ("short_answer", "red cars", ["red car"], 0.0),
        ("relaxed", "95", ["100"], 1.0),  # 5 % off
        ("relaxed", "105.0", ["100"], 1.0),
        ("relaxed", "94.9", ["100"], 0.0),
        ("relaxed", "-3", ["-2.9"], 1.0),
        ("relaxed", "14%", ["0.14"], 1.0),
        ("relaxed", "14", ["14%"], 0.0),
        ("relaxed", "0", ["0"], 1.0),
        ("relaxed", "0.01", ["0"], 0.0),
        ("relaxed", "yes", ["Yes"], 1.0),
        ("relaxed", "yes.", ["Yes"], 0.0),  # pix2struct's rule strips no full stop
        ("relaxed", "0.0", ["0"], 0.0),  # beside zero the text must be the same
        ("relaxed", "0%", ["0"], 0.0),
        ("relaxed", "0%", ["0%"], 1.0),
        ("relaxed", "0.14", ["14%"], 1.0),
        ("relaxed", "14.6%", ["14%"], 1.0),
        ("relaxed", "14.8%", ["14%"], 0.0),
        ("relaxed", "1400", ["14%"], 0.0),
        ("relaxed", "2016", ["2019"], 1.0),  # a year is a number
        ("relaxed", "1900", ["2019"], 0.0),
        ("relaxed", "1,200", ["1200"], 0.0),
        ("relaxed", "$5", ["5"], 0.0),
        ("relaxed", "-3.15", ["-3"], 1.0),
        ("relaxed", "3", ["-3"], 0.0),
        ("relaxed", "bleu", ["blue"], 0.0),
        ("anls", "Kitten", ["kitten"], 1.0),
        ("anls", "kitten", ["sitting"], 1 - 3 / 7),
        ("anls", "ab", ["cb"], 0.5),  # exactly one half counts
        ("anls", "abc", ["xyc"], 0.0),
        ("anls", "abcd", ["abxy"], 0.5),
        ("anls", "Ab  cd", ["ab cd"], 1.0),
        ("anls", "a", ["b"], 0.0),
        ("anls", "", [""], 1.0),
        ("anls", "abcde", ["xyzzy", "abcdx"], 0.8),
        ("anls", "", ["abc"], 0.0),
        ("span_overlap", "from 2 to 6", ["4.0 - 8.0"], 2 / 6),
        ("span_overlap", "4 - 8", ["4.0 - 8.0"], 1.0),
        ("span_overlap", "0 - 1", ["4.0 - 8.0"], 0.0),
        ("span_overlap", "no idea", ["4.0 - 8.0"], 0.0),
        ("span_overlap", "2 - 4", ["4.0 - 8.0"], 0.0),  # touching
        ("span_overlap", "8 - 9", ["4.0 - 8.0"], 0.0),
        ("span_overlap", "8 to 4", ["4.0 - 8.0"], 1.0),  # reversed
        ("span_overlap", "6 to 2", ["4.0 - 8.0"], 2 / 6),
        ("span_overlap", "6 - 6", ["4.0 - 8.0"], 0.0),  # empty
        ("span_overlap", "4 - 4", ["4.0 - 4.0"], 0.0),
        ("span_overlap", "5 - 7", ["4.0 - 8.0"], 0.5),  # inside
        ("span_overlap", "0 - 16", ["4.0 - 8.0"], 0.25),  # around
        ("span_overlap", "1:05 - 1:15", ["60.0 - 70.0"], 5 / 15),
        ("span_overlap", "<think>0 - 1</think>4 - 8", ["4.0 - 8.0"], 1.0),
        ("fraction_overlap", "25% to 50%", ["0.25 - 0.75"], 0.5),
        ("fraction_overlap", "5s to 7s", ["0.25 - 0.75"], 0.0),
        ("contains", "it says Centre Court", ["CENTRE"], 1.0),
        ("contains", "center", ["CENTRE"], 0.0),
        ("contains_formula", "x^{2} + 1", ["x ^ { 2 }"], 1.0),
        ("contains_formula", "X^{2}", ["x ^ { 2 }"], 0.0),
        ("open_answer", "about 1,200.501 m", ["1200.5"], 1.0),
        ("open_answer", "12", ["1200.5"], 0.0),
        ("open_answer", "the Moon, I think", ["moon"], 1.0),
        ("open_answer", "12%", ["12%"], 1.0),
        ("open_answer", "The rate is 12%.", ["12%"], 1.0),
        ("open_answer", "12", ["12%"], 0.0),  # "12%" is a text
        ("open_answer", "12%", ["12"], 1.0),
        ("open_answer", "120", ["12"], 0.0),
        ("open_answer", "1,200", ["200"], 0.0),  # no number from the middle of one
        ("open_answer", "$1,200", ["1200"], 1.0),
        ("open_answer", ".5", ["0.5"], 1.0),
        ("open_answer", "-3", ["3"], 0.0),
        ("open_answer", "3.141", ["3.14159"], 1.0),  # two decimals
        ("open_answer", "3 is too small, so it is 4", ["3"], 0.0),  # the conclusion counts
        ("open_answer", "3 is too small, so it is 4", ["4"], 1.0),
        ("open_answer", "x = 3 + 4 = 7", ["7"], 1.0),
        ("open_answer", "x = 3 + 4 = 7", ["3"], 0.0),
        ("open_answer", "tumble", ["m"], 0.0),  # a letter needs a space beside it
        ("open_answer", "m", ["M"], 1.0),
        ("open_answer", "a mule", ["m"], 1.0),
    ],
)
def test_scores_by_hand(metric: str, answer: str, expected: list[str], score: float) -> None:
    assert score_of(answer, question(metric, *expected)) == pytest.approx(score)


def test_a_choice_that_is_not_named_is_wrong() -> None:
    one = question("choice", "B", choices=lettered(["red", "blue"]))
    assert [score_of(answer, one) for answer in ("B", "blue", "(A)", "green", "")] == [1, 1, 0, 0, 0]
    assert "choice" in SCORES


def about(image: str, category: str) -> Question:
    parts = (MediaPart("image", image), TextPart("?"))
    return Question(f"{image}?", parts, ("yes",), "choice", (Choice("", "yes"), Choice("", "no")), (("c", category),))


CASES = [  # (image, category, right): both of a.png, one of b.png in "count"; none of c.png in "scene"
    *[("a.png", "count", 1), ("a.png", "count", 1), ("b.png", "count", 1), ("b.png", "count", 0)],
    *[("c.png", "scene", 0), ("c.png", "scene", 0)],
]
MME_BY_HAND = (75 + 50) + (0 + 0)  # accuracy 3/4, accuracy+ 1/2


def mme_score(cases: list[tuple[str, str, int]]) -> MmeScore:
    metric = MmeScore(["count", "scene"])
    for image, category, right in cases:
        metric.update(right, about(image, category))
    return metric


def test_mme_by_hand() -> None:
    assert float(mme_score(CASES).compute()) == MME_BY_HAND


def test_categories_count_alike() -> None:
    """3/4 of four answers and 0 of two: a third category without an answer counts for nothing."""
    metric = MeanOfCategories(["count", "other", "scene"])
    for image, category, right in CASES:
        metric.update(right, about(image, category))
    assert float(metric.compute()) == (3 / 4 + 0) / 2


def sync_over_ranks(folder: str) -> None:
    """On every rank: every other case, so that the two questions about an image are answered on different ranks."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    mine = CASES[rank::2]
    categories = MeanOfCategories(["count", "scene"])
    for image, category, right in mine:
        categories.update(right, about(image, category))
    scores = [float(mme_score(mine).compute()), float(categories.compute())]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(scores))
    distributed.destroy_process_group()


def test_two_ranks_score_like_one(tmp_path: Path) -> None:
    run = launch(2, "tests.evaluation.test_metrics:sync_over_ranks", str(tmp_path), deadline_seconds=120)
    assert run.returncode == 0, run.stdout
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [MME_BY_HAND, (3 / 4 + 0) / 2]


def test_scores_are_floats_of_their_own_precision() -> None:
    metric = mme_score(CASES)
    assert metric.compute().dtype == torch.float64
