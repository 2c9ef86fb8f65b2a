"""Progress reports of making an index."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, int], None]  # "rows" or "files", done, in all, errors among the done


def no_progress(what: str, done: int, total: int, num_errors: int) -> None:
    """Show no progress."""
