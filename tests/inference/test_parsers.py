"""Parsed answers against hand-written lists, and every form around every label and time."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_apollo.evaluation.question import lettered
from lightning_apollo.inference.parsers import (
    Box,
    Choice,
    find_boxes,
    find_choice,
    find_number,
    find_numbers,
    find_span,
    find_spans,
    without_thinking,
)
from tests.evaluation import written_choices, written_spans

LETTERED = lettered(written_choices.CHOICES)
YES_NO = (Choice("", "yes"), Choice("", "no"))
NUMBERED = (Choice("1", "The cat sits."), Choice("2", "The dog sits."))


def named(answer: str, choices: tuple[Choice, ...] = LETTERED) -> str | None:
    index = find_choice(answer, choices)
    return None if index is None else choices[index].label or choices[index].text


def test_the_lists_are_long_enough() -> None:
    for written, least in ((written_choices.ALL, 100), (written_spans.ALL, 60)):
        assert len({answer for answer, _ in written}) == len(written) >= least


@pytest.mark.parametrize(("answer", "label"), written_choices.ALL)
def test_the_choice_that_an_answer_names(answer: str, label: str | None) -> None:
    assert named(answer) == label


@pytest.mark.parametrize(("answer", "text"), written_choices.YES_NO)
def test_yes_and_no_are_read_from_answers_alone(answer: str, text: str | None) -> None:
    assert named(answer, YES_NO) == text


def test_yes_and_no_among_labels_are_answers_alone() -> None:
    choices = lettered(["yes", "no", "cannot tell"])
    answers = ("Yes", "There is no way to tell.", "No, he is not.", "cannot tell", "C", "no one")
    assert [named(answer, choices) for answer in answers] == ["A", None, "B", "C", "C", None]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        *[
            ("Option 2", "2"),
            ("2", "2"),
            ("option 2: the dog sits.", "2"),
            ("The dog sits", "2"),
            ("the answer is 1", "1"),
        ],
        *[("Caption 2: The dog sits.", "2"), ("2. The dog sits.", "2"), ("Sentence 1 is wrong, sentence 2", "2")],
        *[
            ("There are 2 dogs", None),
            ("2 dogs sit", None),
            ("1 or 2", None),
            ("Option 1 or option 2", None),
            ("3", None),
        ],
    ],
)
def test_labels_that_are_numbers(answer: str, label: str | None) -> None:
    assert named(answer, NUMBERED) == label


def test_texts_that_are_numbers() -> None:
    choices = lettered(["1", "2", "3"])
    answers = ("3", "three", "There are 3 birds.", "2 or 3", "3.5", "13", "B. 2")
    assert [named(answer, choices) for answer in answers] == ["C", "C", "C", None, None, None, "B"]


def test_i_and_a_are_words_where_they_stand_as_words() -> None:
    choices = lettered([f"thing {number}" for number in range(10)])  # A to J
    answers = (
        "I",
        "I think B",
        "I would say C",
        "Answer: I",
        "(I)",
        "I'm not sure",
        "A bird, I see",
        "A",
        "a",
        "Answer: a",
    )
    assert [named(answer, choices) for answer in answers] == ["I", "B", "C", "I", "I", None, None, "A", "A", "A"]


def test_equal_texts_are_told_apart_by_labels_alone() -> None:
    choices = lettered(["red", "red", "blue"])
    assert [named(answer, choices) for answer in ("red", "it is red", "B", "B. red")] == [None, None, "B", "B"]


LABELS = st.sampled_from("ABCD")
DRESSES = st.sampled_from(
    (
        "{}",
        "({})",
        "[{}]",
        "**{}**",
        "{}.",
        '"{}"',
        "（{}）",
        r"\boxed{{{}}}",
        r"\boxed{{\text{{{}}}}}",
        "*({})*",
        "`{}`",
    )
)
LEADS = st.sampled_from(
    (
        "",
        "Answer: ",
        "answer is ",
        "The correct option is ",
        "Option ",
        "option ",
        "So the best answer is: ",
        "I choose ",
        "答案是",
        "正确答案为：",
        "选",
        "选项",
        "The answer is\n",
        "ANSWER: ",
        "Final answer: ",
        "My choice is ",
    )
)
THOUGHTS = st.sampled_from(("", "<think>A, or C? Not B.</think>", "<think>\nThe answer is D.\n</think>\n\n"))
TAILS = st.sampled_from(("", "\n", " ", ".", "。", " because of the park."))


@given(LABELS, DRESSES, LEADS, THOUGHTS, TAILS, st.booleans())
def test_a_label_is_read_in_every_dress(label: str, dress: str, lead: str, thought: str, tail: str, low: bool) -> None:
    written = dress.format(label.lower() if low and (lead or tail.strip() == "") else label)
    assert named(f"{thought}{lead}{written}{tail}") == label


JOINTS = st.sampled_from(
    (" or ", " and ", ", ", " / ", "/", " & ", "和", "、", "或", " and/or ", ", or ", " nor ", "+", " ")
)


@given(
    st.permutations("ABCD"),
    DRESSES,
    LEADS,
    THOUGHTS,
    JOINTS,
    st.sampled_from(("", "Both ", "either ", "not ", "neither ")),
)
def test_several_labels_name_no_choice(
    labels: list[str], dress: str, lead: str, thought: str, joint: str, word: str
) -> None:
    assume(not (dress == "{}." and joint == " " and word in ("not ", "neither ")))  # "not A. B." names B
    assert named(f"{thought}{lead}{word}{joint.join(dress.format(label) for label in labels[:2])}") is None


@given(
    st.permutations("ABCD"),
    st.sampled_from(("not {} but {}", "{} is wrong, {}", "It isn't {}; it is {}.", "不是{}，而是{}")),
)
def test_a_denied_label_leaves_the_other(labels: list[str], form: str) -> None:
    assert named(form.format(*labels)) == labels[1]


@given(st.text(alphabet=" ABCDabIor.,()[]{}\\\"':*<>/|?!\n-12不是和答案think", max_size=60))
def test_any_text_names_one_choice_or_none(answer: str) -> None:
    found = find_choice(answer, LETTERED)
    assert found is None or 0 <= found < len(LETTERED)
    assert find_choice(f"<think>{answer}</think>", LETTERED) is None


def is_same(found: tuple[float, float] | None, expected: tuple[float, float] | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("answer", "span"), written_spans.ALL)
def test_the_span_of_an_answer_in_seconds(answer: str, span: tuple[float, float] | None) -> None:
    assert is_same(find_span(answer), span), find_span(answer)


@pytest.mark.parametrize(("answer", "span"), written_spans.FRACTIONS)
def test_the_span_of_an_answer_in_fractions(answer: str, span: tuple[float, float] | None) -> None:
    assert is_same(find_span(answer, "fractions"), span), find_span(answer, "fractions")


def test_all_spans_of_an_answer() -> None:
    assert find_spans("3s - 5s, then 7 - 8") == [(3, 5), (7, 8)]
    assert find_spans("[[1, 2], [5, 6]]") == [(1, 2), (5, 6)]
    assert find_spans("never") == []


def clock(hundredths: int) -> str:
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes}:{rest // 100:02d}.{rest % 100:02d}"


def long_clock(hundredths: int) -> str:
    hours, rest = divmod(hundredths, 360000)
    return f"{hours:02d}:{rest // 6000:02d}:{rest % 6000 // 100:02d}.{rest % 100:02d}"


def in_units(hundredths: int) -> str:
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes}m{rest / 100:.2f}s"


def in_chinese(hundredths: int) -> str:
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes}分{rest / 100:.2f}秒"


WRITERS = st.sampled_from(
    (lambda value: f"{value / 100:.2f}", lambda value: f"{value / 100:.2f}s", clock, long_clock, in_units)
)
RANGES = st.sampled_from(
    (
        "{} - {}",
        "{}-{}",
        "{}–{}",
        "from {} to {}",
        "between {} and {}",
        "[{}, {}]",
        "({}, {})",
        "start: {}, end: {}",
        '{{"start": "{}", "end": "{}"}}',
        "It starts at {} and ends at {}.",
        "从{}到{}",
        "**{} to {}**",
        "<think>1 - 2</think>{} → {}",
    )
)


@given(st.tuples(st.integers(0, 999_999), st.integers(0, 999_999)), WRITERS, RANGES)
def test_a_span_is_read_back_from_every_form(ends, write, form: str) -> None:
    begin, end = ends
    expected = (min(ends) / 100, max(ends) / 100)
    assert is_same(find_span(form.format(write(begin), write(end))), expected)
    assert is_same(find_span(f"{in_chinese(begin)}到{in_chinese(end)}"), expected)
    assert find_span(write(begin)) is None


@given(st.text(alphabet=" 0123456789.,:-–smh[]()to分秒到%'\"", max_size=40))
def test_any_text_gives_an_ordered_span_or_none(answer: str) -> None:
    span = find_span(answer)
    assert span is None or span[0] <= span[1]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("-1,200.5 and 3e2, not x5", [-1200.5, 300.0]),
        *[
            (".5", [0.5]),
            ("-3", [-3]),
            ("−3", [-3]),
            ("1,234", [1234]),
            ("1e3", [1000]),
            ("50%", [50]),
            ("$5", [5]),
            ("-$5", [-5]),
        ],
        *[
            ("3-5", [3, 5]),
            ("1,234,567.89", [1234567.89]),
            ("(-.5)", [-0.5]),
            ("5km", [5]),
            ("共有3只", [3]),
            ("3.", [3]),
        ],
        *[
            ("1.2.3", []),
            ("v2.0", []),
            ("1,23", []),
            ("H2O", []),
            ("x-5", []),
            ("1234,567", []),
            ("a1b2", []),
            ("", []),
        ],
    ],
)
def test_the_numbers_of_an_answer(answer: str, numbers: list[float]) -> None:
    assert find_numbers(answer) == numbers


@given(
    st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
    st.sampled_from(("{}", "about {} m", "({})", "= {}.", "{}%")),
)
def test_a_number_is_read_whole(value: float, form: str) -> None:
    assert find_numbers(form.format(value)) == [value]
    assert find_numbers(form.format(f"{value:,}")) == [value]
    assert find_number(f"{form.format(value)}, that is {value}") == value
    assert find_numbers(f"x{abs(value)}") == []


def test_the_one_number_of_an_answer() -> None:
    assert [find_number(answer) for answer in ("3", "3 or 4", "3, so 3", "none")] == [3, None, 3, None]


def test_what_stands_behind_thoughts() -> None:
    assert without_thinking("<think>a</think> b") == "b"
    assert without_thinking("b <think>a") == "b"
    assert without_thinking("a</THINK>b") == "b"


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
