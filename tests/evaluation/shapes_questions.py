"""Questions of the built-in video QA set, as its reader makes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_apollo.data.shapes.dataset import HELD_OUT_QUESTIONS
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.readers.shapes import shapes


def shapes_question(
    name: str, video: str, text: str, answer: str, kind: str, is_temporal: bool, choices: Sequence[str]
) -> Question:
    row = {"id": name, "video": video, "question": text, "answer": answer, "type": kind, "temporal": is_temporal}
    with TemporaryDirectory() as folder:
        (Path(folder) / HELD_OUT_QUESTIONS).write_text(json.dumps({**row, "choices": choices}) + "\n")
        (question,) = shapes(Path(folder))
    return question
