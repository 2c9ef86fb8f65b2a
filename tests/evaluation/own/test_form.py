"""Metrics of own rows by the form of their answers."""

import pytest

from lightning_apollo.data.conversation import TextPart
from lightning_apollo.evaluation.asked import METRICS
from lightning_apollo.evaluation.metrics import SCORES
from lightning_apollo.evaluation.own.form import SCORES as BY_WORD
from lightning_apollo.evaluation.own.form import TITLES, form_of, offered, said_in_one_line, short_texts_exact
from lightning_apollo.evaluation.question import Question
from lightning_apollo.inference.parsers import Choice

LINES = "Which colour?\nA. red\nB. dark blue\nC. green\nAnswer with the letter."


def test_every_word_is_a_score_with_a_title() -> None:
    assert list(BY_WORD) == list(METRICS)
    assert set(BY_WORD.values()) == set(TITLES) <= set(SCORES)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        (LINES, [("A", "red"), ("B", "dark blue"), ("C", "green")]),
        ("Which? (A) red (B) dark blue", [("A", "red"), ("B", "dark blue")]),
        ("Which?\na) red\nb) blue", [("a", "red"), ("b", "blue")]),
        ("Options:\n(A) red\n(B) blue\nOnly give the best option.", [("A", "red"), ("B", "blue")]),
        ("A. B. Smith wrote what?\nA. a book\nB. a song", [("A", "a book"), ("B", "a song")]),
        ("What is shown in plan A? Say it.", []),
        ("Describe it.", []),
    ],
)
def test_choices_are_read_from_the_question(text: str, choices: list[tuple[str, str]]) -> None:
    assert [tuple(choice) for choice in offered(text)] == choices


@pytest.mark.parametrize(
    ("asked", "expected", "shows_video", "metric", "answers"),
    [
        (LINES, "B", False, "choice", ("B",)),
        (LINES, "(B) dark blue", False, "choice", ("B",)),
        (LINES, "dark blue", False, "choice", ("B",)),
        ("Is it red?", "Yes.", False, "choice", ("yes",)),
        ("Is it red?", "No", False, "choice", ("no",)),
        ("When?", "1.5 - 4.0 seconds", True, "span_overlap", ("1.5 - 4.0",)),
        ("When?", "From 2 to 3.5 s.", False, "span_overlap", ("2.0 - 3.5",)),
        ("When?", "3 - 5", True, "span_overlap", ("3.0 - 5.0",)),
        ("Score?", "3 - 5", False, "token_f1", ("3 - 5",)),  # of a picture, no time
        ("When?", '{"start": 1.0, "end": 2.5}', True, "span_overlap", ("1.0 - 2.5",)),
        ("When?", "[3.5, 7.0]", True, "span_overlap", ("3.5 - 7.0",)),
        ("When?", "2014-05-03", True, "token_f1", ("2014-05-03",)),
        (
            "When?",
            "From 2 to 3 s he jumps, then he sits.",
            True,
            "token_f1",
            ("From 2 to 3 s he jumps, then he sits.",),
        ),
        ("How many?", "3", True, "number", ("3",)),
        ("How many?", "1,200.5", True, "number", ("1,200.5",)),
        ("How much?", "12 %", False, "number", ("12 %",)),
        ("How many?", "three", True, "token_f1", ("three",)),
        ("What?", "The rabbit is grey.", True, "token_f1", ("The rabbit is grey.",)),
    ],
)
def test_the_form_of_an_answer(
    asked: str, expected: str, shows_video: bool, metric: str, answers: tuple[str, ...]
) -> None:
    form = form_of(asked, expected, shows_video)
    assert form is not None
    assert (form.metric, form.answers) == (metric, answers)


def test_a_metric_that_does_not_fit_is_refused() -> None:
    assert form_of("What?", "red", True, "choice") is None
    assert form_of("What?", "red", True, "span") is None
    assert form_of("What?", "red", True, "relaxed") is None
    for word in ("exact", "f1"):
        form = form_of(LINES, "B", True, word)
        assert form is not None
        assert (form.metric, form.answers, form.choices) == (BY_WORD[word], ("B",), ())
    form = form_of("How many?", "3", True, "relaxed")
    assert form is not None
    assert form.metric == "relaxed"


def question(name: str, kind: str, answer: str, metric: str = "token_f1") -> Question:
    return Question(name, (TextPart("?"),), (answer,), metric, groups=(("kind", kind),))


def test_short_texts_of_a_kind_are_compared_as_a_whole() -> None:
    asked = [
        question("1", "colour", "red"),
        question("2", "colour", "dark blue"),
        question("3", "story", "yes"),
        question("4", "story", "a man walks along the road"),
        question("5", "colour", "3", "number"),
    ]
    metrics = [one.metric for one in short_texts_exact(asked)]
    assert metrics == ["exact_text", "exact_text", "token_f1", "token_f1", "number"]


def test_what_scores_is_said_in_a_line() -> None:
    asked = [
        question("1", "x", "red", "exact_text"),
        question("2", "x", "3", "number"),
        question("3", "x", "4", "number"),
    ]
    said = "scored by number 2, exact match 1 (by the form of the expected answers; --metric sets it)"
    assert said_in_one_line(asked, None) == said
    assert said_in_one_line(asked[:1], "exact") == "scored by exact match 1 (as --metric says)"


def test_yes_and_no_are_choices() -> None:
    form = form_of("Is it?", "yes", True)
    assert form is not None
    assert form.choices == (Choice("", "yes"), Choice("", "no"))
