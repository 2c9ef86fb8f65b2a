"""The answers of a run on disk: one line of JSON for each question, appended and flushed to the disk as they come.

OUTPUT/settings.json          with what the answers were made; a run with other settings is refused
       answers-0.jsonl ...    one file for each rank, whatever number of ranks an earlier run had
       quarantine-0.jsonl ... the questions of the last run whose media could not be shown
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lightning_apollo.evaluation.question import BenchmarkError
from lightning_apollo.files import try_lock, write_atomically

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Answer:
    """Answer of the model to one question in one mode."""

    question_id: str
    mode: str  # one of results.MODES
    asked: str  # Question.fingerprint: what the words were
    answer: str
    loss_sum: float | None = None  # of the expected answer's tokens, in nats; own rows alone have it
    num_tokens: int | None = None  # of the expected answer


def read_answers(output: Path) -> dict[tuple[str, str], Answer]:
    """All answers by (mode, question id); BenchmarkError where one is there twice or a line is none.

    A last line that a killed run did not finish is no answer; its question is asked again.
    """
    answers: dict[tuple[str, str], Answer] = {}
    for path in sorted(output.glob("answers-*.jsonl")):
        *lines, _ = path.read_text(encoding="utf-8").split(
            "\n"
        )  # behind the last line break: nothing, or the rest of a line
        for number, line in enumerate(lines, start=1):
            try:
                answer = Answer(**json.loads(line))
            except (TypeError, ValueError) as error:
                raise BenchmarkError(
                    f"{path}:{number}: no answer: remove the line to have its question asked again"
                ) from error
            key = (answer.mode, answer.question_id)
            if key in answers:
                raise BenchmarkError(f"{path}:{number}: a second answer to {answer.question_id}: remove one of the two")
            answers[key] = answer
    return answers


class AnswerFile:
    """The file of one rank, open for appending; no other process can open it meanwhile."""

    def __init__(self, output: Path, rank: int) -> None:
        path = output / f"answers-{rank}.jsonl"
        self._file = path.open("ab+")
        if not try_lock(self._file):
            self._file.close()
            raise BenchmarkError(f"{path}: another run is writing it: wait for it, or name another --output")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)  # what a killed run did not finish

    def append(self, answers: Iterable[Answer]) -> None:
        """Return once the answers are on the disk."""
        self._file.write(b"".join(_line(answer) for answer in answers))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _line(answer: Answer) -> bytes:
    known = {key: value for key, value in asdict(answer).items() if value is not None}
    return json.dumps(known).encode() + b"\n"


def clear_quarantine(output: Path) -> None:
    """Remove what earlier runs have listed: whatever has no answer is tried again."""
    for path in output.glob("quarantine-*.jsonl"):
        path.unlink()


class QuarantineFile:
    """The questions that a rank could not show: media that cannot be read, or that do not fit the model."""

    def __init__(self, output: Path, rank: int) -> None:
        self._file = (output / f"quarantine-{rank}.jsonl").open("w", encoding="utf-8")

    def append(self, bad: Iterable[tuple[str, str, str]]) -> None:
        """Lists (question id, mode, reason)."""
        for row in bad:
            self._file.write(json.dumps(dict(zip(("question_id", "mode", "reason"), row, strict=True))) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_quarantine(output: Path) -> list[tuple[str, str, str]]:
    """Items that the ranks of the last run could not show, as (question id, mode, reason), by id."""
    lines = [line for path in output.glob("quarantine-*.jsonl") for line in path.read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    return sorted((row["question_id"], row["mode"], row["reason"]) for row in rows)


def check_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a new folder; BenchmarkError where the folder's answers were made with others."""
    path = output / SETTINGS
    now = json.loads(json.dumps(settings))
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial:
            partial.write_text(json.dumps(now, indent=2) + "\n")
        return
    before = json.loads(path.read_text())
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed)
        raise BenchmarkError(f"{output} has answers of another run: {shown}: name another --output, or remove it")
