"""Reader of the built-in video QA set."""

from collections.abc import Iterator
from pathlib import Path

from lightning_apollo.data.shapes import HELD_OUT_QUESTIONS
from lightning_apollo.evaluation.benchmarks import read_shapes
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.readers.files import find_files
from lightning_apollo.inference.parsers import Choice


def shapes(folder: Path) -> Iterator[Question]:
    """The questions about the held-out clips; answers are words of a set that is not offered, and judged as the demo does."""
    find_files(folder, HELD_OUT_QUESTIONS)
    for question in read_shapes(folder):
        message = question.conversation().messages[0]
        yield Question(
            question_id=question.question_id,
            parts=message.parts,
            answers=(question.answer,),
            metric="same_text",
            choices=tuple(Choice("", text) for text in question.choices),
            groups=(("question", question.kind), ("needs", "several frames" if question.is_temporal else "one frame")),
        )
