"""Reader of the built-in video QA set."""

from collections.abc import Iterator
from pathlib import Path

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.data.shapes.dataset import HELD_OUT_QUESTIONS
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.readers.files import read_json_lines
from lightning_apollo.inference.parsers import Choice

SHAPES = "shapes"  # the name of the set in files of results
TEMPORAL = ("needs", "several frames")  # the group of questions that no single frame answers


def shapes(folder: Path) -> Iterator[Question]:
    """The questions about the held-out clips; answers are words of a set that is not offered, and judged as the demo does."""
    for row in read_json_lines(folder, HELD_OUT_QUESTIONS):
        yield Question(
            question_id=row["id"],
            parts=(MediaPart("video", row["video"]), TextPart(row["question"])),
            answers=(row["answer"],),
            metric="same_text",
            choices=tuple(Choice("", text) for text in row["choices"]),
            groups=(("question", row["type"]), TEMPORAL if row["temporal"] else ("needs", "one frame")),
        )


def is_temporal(question: Question) -> bool:
    """True for questions of the set that need more than one frame."""
    return TEMPORAL in question.groups
