"""A table of scores by hand."""

from dataclasses import replace

import pytest

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question, lettered
from lightning_apollo.evaluation.registry import find_benchmark
from lightning_apollo.evaluation.table import tabulate_scores

CHOICES = lettered(["red", "blue"])


def question(number: int, form: str) -> Question:
    groups = (("format", form), ("aspect", "speed" if number % 2 else "order"))
    parts = (MediaPart("video", f"{number}.mp4"), TextPart("?"))
    return Question(str(number), parts, ("A",), "choice", CHOICES, groups)


QUESTIONS = [question(n, "multi-choice" if n < 4 else "yes_no") for n in range(8)]
ANSWERS = {"0": "A", "1": "A", "2": "A", "3": "B", "4": "A", "5": "B", "6": "none"}  # nothing to 7


def test_rows_and_figures() -> None:
    table = tabulate_scores(find_benchmark("tempcompass"), QUESTIONS, ANSWERS, "full")
    assert {row.name: (pytest.approx(row.value), row.num_answers) for row in table.rows} == {
        "all": (100 * 4 / 7, 7),
        "format: multi-choice": (75, 4),
        "format: yes_no": (100 / 3, 3),
        "aspect: order": (75, 4),
        "aspect: speed": (100 / 3, 3),
    }
    grid = table.grid()
    assert grid.head == (
        *("", "score", "95 % interval", "answers"),
        *("VideoLLaMA3-2B", "VideoLLaMA3-7B", "Apollo-1.5B", "Apollo-3B", "Apollo-7B"),
    )
    assert grid.rows[0][:2] == ("all", "57.1")
    assert grid.rows[0][3:] == ("7", "63.4", "68.1", "", "", "")
    assert grid.rows[1][4:] == ("", "", "60.8", "62.5", "64.9")
    assert table.remarks() == [
        "1 of 8 questions have no answer and count for nothing.",
        "VideoLLaMA3-2B, VideoLLaMA3-7B: VideoLLaMA 3, arXiv 2501.13106v4 (with the captions, which GPT-3.5 judges).",
        "Apollo-1.5B, Apollo-3B, Apollo-7B: Apollo, arXiv 2412.10360v1, Table 4.",
    ]


def test_categories_count_alike_where_the_benchmark_says_so() -> None:
    table = tabulate_scores(find_benchmark("mvbench"), QUESTIONS, ANSWERS, "blind")
    assert table.rows[0].value == pytest.approx((75 + 100 / 3) / 2)
    assert table.grid().title == "MVBench: text alone"


def test_spans_have_recalls() -> None:
    questions = [
        Question(str(n), (MediaPart("video", f"{n}.mp4"), TextPart("?")), ("4.0 - 8.0",), "span_overlap")
        for n in range(4)
    ]
    answers = {"0": "4 to 8", "1": "5 to 8", "2": "2 to 6", "3": "9 to 10"}  # overlaps 1, 3/4, 1/3, 0
    table = tabulate_scores(find_benchmark("charades_sta"), questions, answers, "full")
    assert {row.name: pytest.approx(row.value) for row in table.rows} == {
        "all": 100 * (1 + 3 / 4 + 1 / 3) / 4,
        "R@1, overlap of 0.3": 75,
        "R@1, overlap of 0.5": 50,
        "R@1, overlap of 0.7": 50,
    }


def test_questions_about_one_video_are_drawn_together() -> None:
    """A draw of the one video there is gives the same answers again."""
    questions = [replace(question, parts=QUESTIONS[0].parts) for question in QUESTIONS]
    row = tabulate_scores(find_benchmark("tempcompass"), questions, ANSWERS, "full").rows[0]
    assert (row.low, row.high) == pytest.approx((row.value, row.value))
    apart = tabulate_scores(find_benchmark("tempcompass"), QUESTIONS, ANSWERS, "full").rows[0]
    assert apart.low < apart.value < apart.high
