"""Files that only inform: lists and logs whose failures, as on a full disk, cost no run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_MAX_BYTES = 2**24  # that wait for room

logger = logging.getLogger(__name__)


class Misses:
    """Count of failures of what only informs; the first is a warning."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.number = 0

    def add(self, error: BaseException) -> None:
        self.number += 1
        if self.number == 1:
            logger.warning("%s cannot be written (%s): the run continues, and tries again", self.what, _reason(error))

    def say(self, after: str) -> None:
        """Says at a run's end how many there were, if any, and `after` it what came of them."""
        if self.number:
            logger.warning("%s: %d writes failed; %s", self.what, self.number, after)


def _reason(error: BaseException) -> str:
    """The system's words where the error, or one that it came from, has them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class SideFile:
    """Text file that grows; what cannot be written is kept and written before what comes later.

    Above 16 MiB of that, later text is lost. Several processes may append whole lines; on a full disk theirs may mix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.misses = Misses(str(path))
        self._waiting = b""

    @property
    def is_behind(self) -> bool:
        return bool(self._waiting)

    def append(self, text: str) -> None:
        """Writes to the file's end, or as much as fits: the rest follows when there is room."""
        if len(self._waiting) < _MAX_BYTES:
            self._waiting += text.encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                while self._waiting:
                    self._waiting = self._waiting[os.write(descriptor, self._waiting) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            self.misses.add(error)
