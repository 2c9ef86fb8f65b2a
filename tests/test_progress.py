"""Progress bars, drawn by one module."""

import io

import pytest
from rich.console import Console

from lightning_apollo.progress import bars, preparation_progress, progress_bar
from tests.places import ROOT


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def shown_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_counts_what_is_done() -> None:
    console = terminal()
    with progress_bar("rounds", console) as report:
        report(1, 4)
        report(3, 4)
    last = shown_on(console).rpartition("rounds")[2]
    assert "3/4" in last


def test_a_bar_that_is_not_shown_writes_nothing() -> None:
    console = terminal()
    with progress_bar("rounds", console, is_shown=False) as report:
        report(3, 4)
    assert shown_on(console) == ""


def test_a_task_has_its_fields_behind_the_count() -> None:
    console = terminal()
    with bars("{task.fields[loss]:.1f} nats", console=console) as drawn:
        drawn.update(drawn.add_task("align", total=2, loss=0.25), completed=1, loss=1.75)
    last = shown_on(console).rpartition("align")[2]
    assert last.index("1/2") < last.index("1.8 nats") < last.index("0:00:0")


def test_what_is_checked_has_a_bar_each_with_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with preparation_progress() as report:
        report("rows", 2, 2, 0)
        report("files", 3, 5, 1)
    out, err = capsys.readouterr()
    assert out == ""
    rows, files = (next(line for line in err.splitlines() if what in line) for what in ("rows", "files"))
    assert "2/2" in rows
    assert "0 broken" in rows
    assert "3/5" in files
    assert "1 broken" in files


@pytest.mark.parametrize("library", ["rich.progress", "tqdm"])
def test_one_module_draws_every_bar(library: str) -> None:
    ours = ROOT / "lightning_apollo"
    files = {path.relative_to(ours).as_posix() for path in ours.rglob("*.py") if library in path.read_text()}
    assert files == ({"progress.py"} if library == "rich.progress" else set())
