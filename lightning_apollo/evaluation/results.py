"""Results of a benchmark, one line of JSON for every question."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lightning_apollo.errors import UserError
from lightning_apollo.files import write_atomically

MODES = ("full", "single_frame", "blind")  # what the model saw: the video, one frame of it, the text alone


class ResultsError(UserError):
    """Results that cannot be used; the message is one line with the place and what to do."""


@dataclass(frozen=True)
class QuestionResult:
    """Answer of one model to one question."""

    benchmark: str
    question_id: str  # the same for every model and mode
    category: str  # kind of question
    model: str
    mode: str  # one of MODES
    answer: str
    expected: str
    is_right: bool

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = bool if name == "is_right" else str
            if not isinstance(value, kind):
                raise ValueError(f"{name} is a {kind.__name__}, not {value!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")


def write_results(results: Iterable[QuestionResult], path: Path) -> None:
    """Write one line for every result, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        partial.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))


def read_results(path: Path) -> list[QuestionResult]:
    """The results of a file, empty lines aside; ResultsError names the line that is not one."""
    names = {field.name for field in fields(QuestionResult)}
    results = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also cut at signs inside an answer
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ResultsError(f"{path}: {reason}: name a file of results, one line of JSON each") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or set(row) != names:
                raise ValueError(f"a result has the keys {', '.join(sorted(names))}")
            results.append(QuestionResult(**row))
        except ValueError as error:  # JSON's own error is one as well
            raise ResultsError(f"{path}:{number}: {error}") from error
    return results
