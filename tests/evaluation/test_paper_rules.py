"""The papers' rules by hand, against what VideoLLaMA 3's evaluation code does (evaluation/benchmarks in its repository)."""

import pytest

from lightning_apollo.data.conversation import TextPart
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.paper_rules import Asked, decide
from lightning_apollo.evaluation.question import Question, lettered
from lightning_apollo.inference.parsers import Choice

CHOICES = lettered(["left", "right"])
YES_NO = (Choice("", "yes"), Choice("", "no"))


def question(expected: str, metric: str = "relaxed", choices: tuple[Choice, ...] = ()) -> Question:
    return Question("q", (TextPart("Which one?"),), (expected,), metric, choices)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        *[
            ("14", "14", 1.0),
            ("14.5", "14", 1.0),
            ("1400", "14", 1.0),
            ("0.14", "14", 1.0),
            ("14%", "14", 1.0),
            ("14", "14%", 1.0),
        ],
        *[("15", "14", 0.0), ("140", "14", 0.0), ("1500", "14", 0.0), ("Yes", "yes", 1.0), ("0", "0", 1.0)],
    ],
)
def test_chartqa_takes_numbers_off_by_100(answer: str, expected: str, score: float) -> None:
    assert decide("chartqa", answer, question(expected)) == score


@pytest.mark.parametrize(
    ("answer", "expected"), [("increase", "increasing"), ("about 14", "14"), ("0.1", "0"), ("14", "fourteen")]
)
def test_chartqa_asks_about_texts_and_zero(answer: str, expected: str) -> None:
    decision = decide("chartqa", answer, question(expected))
    assert isinstance(decision, Asked)
    assert all(words in decision.prompt for words in ("Which one?", answer, expected))
    replies = ("True", "true.", "False", "<think>True or False?</think>\nFalse", "I cannot say", "True or False", "")
    assert [decision.score(reply) for reply in replies] == [1, 1, 0, 0, None, None, None]


def test_realworldqa_strips_one_full_stop_and_asks_about_the_rest() -> None:
    two = question("2", "short_answer")
    assert decide("realworldqa", " 2. ", two) == 1.0
    decision = decide("realworldqa", "Two", two)
    assert isinstance(decision, Asked)
    assert "Which one?" not in decision.prompt  # the judge is not shown the question there
    assert "Correct answer: 2\nAnswer: two\n" in decision.prompt


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("B", 1.0),
        ("(B)", 1.0),
        ("A", 0.0),
        ("I think (B) is", 1.0),
        ("(A) or so\n\nso (B)", 1.0),
        ("<think>(A)</think>(B)", 1.0),
    ],
)
def test_blink_reads_one_label(answer: str, score: float) -> None:
    assert decide("blink", answer, question("B", "choice", CHOICES)) == score


@pytest.mark.parametrize("answer", ["the right one", "b", "(A) and (B)", ""])
def test_blink_asks_about_the_rest(answer: str) -> None:
    decision = decide("blink", answer, question("B", "choice", CHOICES))
    assert isinstance(decision, Asked)
    replies = ("(B)", "B", "(A)", "(Z)", "The answer means (B).", "(A) or (B)", "no idea")
    assert [decision.score(reply) for reply in replies] == [1, 1, 0, 0, 1, None, None]


def test_activitynet_qa_asks_about_every_answer() -> None:
    assert isinstance(decide("activitynet_qa", "yes", question("yes", "short_answer")), Asked)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("yes", "yes", 1.0),
        ("There is no way", "no", 1.0),
        ("no, yes", "yes", 1.0),
        ("nothing", "no", 1.0),
        ("maybe", "no", 0.0),
    ],
)
def test_mme_finds_yes_anywhere(answer: str, expected: str, score: float) -> None:
    assert decide("mme", answer, question(expected, "choice", YES_NO)) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("4 - 8", 1.0),
        ("8 to 4", 1.0),
        ("4 - 6 and 6 - 8", 1.0),
        ("4 - 6, then 10 - 12", 2 / 6),
        ("0 - 4", 0.0),
        ("never", 0.0),
    ],
)
def test_charades_sta_adds_spans_up(answer: str, score: float) -> None:
    assert decide("charades_sta", answer, question("4.0 - 8.0", "span_overlap")) == pytest.approx(score)


def test_other_benchmarks_are_scored_as_their_organisers_do() -> None:
    right = question("ab", "anls")
    assert decide("docvqa", "cb", right) == score_of("cb", right) == 0.5
