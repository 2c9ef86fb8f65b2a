"""What answers in words mean, by hand."""

import pytest

from lightning_apollo.evaluation.question import lettered
from lightning_apollo.inference.parsers import Box, Choice, find_boxes, find_choice, find_numbers, find_span

LETTERED = lettered(["walking", "running fast", "running", "2"])
YES_NO = (Choice("", "yes"), Choice("", "no"))
NUMBERED = (Choice("1", "The cat sits."), Choice("2", "The dog sits."))


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *[("B", "B"), ("b", "B"), ("b.", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("[B]", "B"), ("B\n", "B")],
        ("B. running fast", "B"),
        ("(B) running fast", "B"),
        ("Option B: running fast", "B"),
        ("The best answer is: C", "C"),
        ("I think so. The answer is (D).", "D"),
        ("So the correct option is **C**", "C"),
        ("First A seemed right, but the answer is B.", "B"),
        ("B because of walking", "B"),
        ("between A and B", None),
        ("maybe (A) or (B)", None),
        ("A is correct", "A"),
        ("A man walks", None),  # an article
        ("A man is running fast", "B"),  # not the shorter text inside it
        ("walking", "A"),
        ("Walking.", "A"),
        ("it shows someone running fast", "B"),
        ("walking or running", None),
        *[("2", "D"), ("", None), ("E", None), ("nothing of this", None)],
    ],
)
def test_the_choice_that_an_answer_names(answer: str, label: str | None) -> None:
    index = find_choice(answer, LETTERED)
    assert (None if index is None else LETTERED[index].label) == label


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Yes", "yes"),
        ("No, yes it was not", "no"),
        ("yes.", "yes"),
        (" yes it is", "yes"),
        ("well no", "no"),
        ("none", None),
    ],
)
def test_choices_without_labels(answer: str, text: str | None) -> None:
    index = find_choice(answer, YES_NO)
    assert (None if index is None else YES_NO[index].text) == text


@pytest.mark.parametrize(
    "answer", ["Option 2", "2", "option 2: the dog sits.", "The dog sits", "Caption 2: The dog sits."]
)
def test_labels_that_are_numbers(answer: str) -> None:
    assert find_choice(answer, NUMBERED) == 1


@pytest.mark.parametrize(
    ("answer", "span"),
    [
        ("from 23.1 to 36.8", (23.1, 36.8)),
        ("24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("The event happens at 3s - 5s, then 7 - 8", (3.0, 5.0)),
        ("between 1 and 3 seconds", (1.0, 3.0)),
        ("start: 12.5, end: 15", (12.5, 15.0)),
        ("from 5.0 to 2", (2.0, 5.0)),
        *[("12.5", None), ("never", None), ("", None)],
    ],
)
def test_the_span_of_an_answer(answer: str, span: tuple[float, float] | None) -> None:
    assert find_span(answer) == span


def test_the_numbers_of_an_answer() -> None:
    assert find_numbers("-1,200.5 and 3e2, not x5") == [-1200.5, 300.0]


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        ("The dog is at [10, 20, 110, 220].", [Box(10, 20, 110, 220)]),
        ("(0.1,0.2,0.5,0.75)", [Box(0.1, 0.2, 0.5, 0.75)]),
        ("[110, 220, 10, 20] and <1, 2, 3, 4>", [Box(10, 20, 110, 220), Box(1, 2, 3, 4)]),
        *[("[1, 2, 3]", []), ("[1, 2, 3, 4, 5]", []), ("1, 2, 3, 4", []), ("", [])],
    ],
)
def test_the_boxes_of_an_answer(answer: str, boxes: list[Box]) -> None:
    assert find_boxes(answer) == boxes
