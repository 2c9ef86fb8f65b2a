"""Progress bars for indexing, and lines beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[str, int, int, int], None]  # what is counted, done, in all, errors among the done


@contextmanager
def preparation_progress() -> Iterator[Report]:
    """Yield what draws a bar on standard error for each thing that is counted, from its first report on."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[errors]} broken"), TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {}

        def report(what: str, done: int, total: int, errors: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, errors=errors)
            progress.update(tasks[what], completed=done, total=total, errors=errors)

        yield report


def print_line(line: str) -> None:
    """Print a line as it is, whatever bar is being drawn."""
    get_console().print(line, markup=False, soft_wrap=True)
