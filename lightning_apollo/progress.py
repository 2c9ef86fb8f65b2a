"""Progress bars on a terminal, and lines beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

Progress = Callable[[int, int], None]  # done, in all
CheckProgress = Callable[[str, int, int, int], None]  # what is checked, done, in all, errors among the done
Say = Callable[[str], None]  # is told a line


def bars(*fields: str, console: Console | None = None, is_shown: bool = True, is_transient: bool = False) -> Bars:
    """Bars of tasks with description, number done and times; between them `fields`, rich's formats of a task's values."""
    return Bars(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn(field) for field in fields),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
        console=console,
        disable=not is_shown,
        transient=is_transient,
    )


@contextmanager
def progress_bar(
    title: str, console: Console | None = None, *, is_shown: bool = True, is_transient: bool = False
) -> Iterator[Progress]:
    """Yield what moves a bar."""
    with bars(console=console, is_shown=is_shown, is_transient=is_transient) as drawn:
        task = drawn.add_task(title, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


def no_check_progress(what: str, done: int, total: int, num_errors: int) -> None:
    """Show no progress."""


@contextmanager
def preparation_progress() -> Iterator[CheckProgress]:
    """Yield what draws a bar on standard error for each thing that is counted, from its first report on."""
    with bars("{task.fields[errors]} broken", console=Console(stderr=True)) as drawn:
        tasks = {}

        def report(what: str, done: int, total: int, errors: int) -> None:
            if what not in tasks:
                tasks[what] = drawn.add_task(what, total=total, errors=errors)
            drawn.update(tasks[what], completed=done, total=total, errors=errors)

        yield report


def print_line(line: str) -> None:
    """Print a line as it is, whatever bar is being drawn."""
    get_console().print(line, markup=False, soft_wrap=True)
