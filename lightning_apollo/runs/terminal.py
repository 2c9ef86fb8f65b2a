"""Standard output and error that cannot end a run, through closed pipes and full disks."""

from __future__ import annotations

import sys
from typing import Any, TextIO, cast


class SteadyStream:
    """Text stream that loses what it cannot write; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.num_failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self.num_failures += 1
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self.num_failures += 1


def steady_terminal() -> None:
    """Make standard output and error of this process steady, for as long as it runs."""
    sys.stdout = cast(TextIO, SteadyStream(sys.stdout))
    sys.stderr = cast(TextIO, SteadyStream(sys.stderr))
