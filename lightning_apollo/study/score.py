"""Score of a finished run, and the lock of a running one. Reads no recipe: nothing heavy is imported.

output/RUN/  STAGE/ ...      what `fit` writes
             results.jsonl   every question with the answer
             score.json      the scores; written last, all or nothing
             log.txt         what the run said
             lock            held while it runs
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lightning_apollo.files import is_locked, lock, write_atomically
from lightning_apollo.study.table import StudyError

if TYPE_CHECKING:
    from lightning_apollo.study.plan import StudyRun

LOG = "log.txt"
RESULTS = "results.jsonl"
_SCORE = "score.json"
_LOCK = "lock"


@dataclass(frozen=True)
class StudyScore:
    """Contents of score.json."""

    run: str
    score: float  # the study's
    scores: Mapping[str, float]  # accuracy by kind of question, and their mean over the temporal ones
    fingerprint: str  # of what was run: Run.fingerprint
    llm_parameters: int
    seconds: float  # training and evaluation, of the last attempt alone


def write_score(run: StudyRun, score: StudyScore) -> None:
    """Write score.json, all or nothing: from then on the run is finished."""
    path = run.folder / _SCORE
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(asdict(score), indent=2) + "\n")


def remove_score(run: StudyRun) -> None:
    """Remove what an earlier recipe of the run scored."""
    (run.folder / _SCORE).unlink(missing_ok=True)


def read_score(run: StudyRun) -> StudyScore | None:
    """The score of a finished run; None where there is none, or where the recipe has changed since."""
    path = run.folder / _SCORE
    if not path.is_file():
        return None
    try:
        score = StudyScore(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise StudyError(f"{path}: not a score of this version: remove it, and the run is measured again") from error
    return score if score.fingerprint == run.fingerprint else None


def status(run: StudyRun) -> str:
    """done, running, stale (the recipe has changed since), failed (it has a log but no score) or missing."""
    if read_score(run) is not None:
        return "done"
    if is_locked(run.folder / _LOCK):
        return "running"
    if (run.folder / _SCORE).is_file():
        return "stale"
    return "failed" if (run.folder / LOG).is_file() else "missing"


def last_line(run: StudyRun) -> str:
    """The last line of the run's log; empty where it has none."""
    log = run.folder / LOG
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def locked(run: StudyRun) -> Iterator[None]:
    """Hold the run, after waiting for a process that does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with lock(run.folder / _LOCK):
        yield
