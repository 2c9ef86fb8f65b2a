"""docs/architecture.md against the code: its paths and names, and both walks as they are taken."""

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.test_imports import FLOORS

PACKAGE = ROOT / "lightning_apollo"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = {text.splitlines()[0]: text for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
ROW, STEP, PARTS = "From a row to its loss", "One optimizer step", "Where to add a part"
# Hook and class of each row of the comment table of stages/base.py, with the spelling of its rows
HOOKS = re.findall(
    r"^#   (on_\w+|training_step|configure_\w+) +(\w+)", (PACKAGE / "stages" / "base.py").read_text(), re.MULTILINE
)
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def table(title: str) -> list[list[str]]:
    """Cells of the rows of a section's table, without its head."""
    lines = [line for line in SECTIONS[title].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def walk_of(title: str) -> list[tuple[str, list[str]]]:
    """File and functions of each row of a walk's table."""
    return [(spans(file)[0], spans(functions)) for file, functions, _ in table(title)]


def explained() -> set[tuple[str, str]]:
    """File and name of every function that docs/walks.md gives a reason for."""
    lines = (ROOT / "docs" / "walks.md").read_text().splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    assert all(len(row) == 3 and len(row[2].split()) > 2 for row in cells)
    return {(spans(file)[0], name) for file, names, _ in cells for name in spans(names)}


def places(name: str) -> list[Path]:
    """Files and folders that a path on the page means; rooms are written without .py."""
    paths = [base / f"{name}{suffix}" for base in (PACKAGE, ROOT) for suffix in ("", ".py")]
    return [path for path in paths if path.exists()]


def defined(paths: Iterable[Path]) -> Iterator[str]:
    """Names of functions, classes and their members, and module values in the Python files of the paths."""
    for path in paths:
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            for node in ast.parse(file.read_text()).body:
                yield from _names(node)
                if isinstance(node, ast.ClassDef):
                    yield from (f"{node.name}.{name}" for member in node.body for name in _names(member))


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def test_the_rooms_are_those_that_the_imports_are_tested_by() -> None:
    rooms = [tuple(spans(cells[1])) for cells in table("Rooms")]
    assert rooms == list(FLOORS)
    assert [cells[0] for cells in table("Rooms")] == [str(number) for number in range(len(FLOORS))]


def test_every_path_is_there() -> None:
    named = [path for span in spans(PAGE) for path in re.findall(r"[\w.-]+/[\w./-]*|\b\w+\.py\b", span)]
    assert len(named) > 80
    assert [path for path in named if not places(path)] == []


@pytest.mark.parametrize("title", [ROW, STEP])
def test_every_function_of_a_walk_is_in_its_file(title: str) -> None:
    for file, functions in walk_of(title):
        assert functions, file
        assert [name for name in functions if name not in set(defined(places(file)))] == [], file


@pytest.mark.parametrize(
    "text",
    [
        SECTIONS[ROW].strip().split("\n\n")[-1],
        SECTIONS[STEP].split("\n\n")[1],
        *(cells[1] for cells in table(PARTS)),
    ],
)
def test_names_are_defined_in_the_files_beside_them(text: str) -> None:
    files = [path for span in spans(text) if "/" in span for path in places(span)]
    known = {word for name in defined(files) for word in (name, name.split(".")[-1])}
    names = [span for span in spans(text) if NAME.fullmatch(span)]
    assert [name for name in names if name not in known] == []


def test_the_table_of_the_stage_has_every_hook_of_a_step() -> None:
    names = {hook for hook, _ in HOOKS}
    files = [PACKAGE / "stages" / "base.py", *(PACKAGE / "training").rglob("*.py")]
    hooks = {name for name in defined(files) if name.partition(".")[2] in names and not name.startswith("Sentinel.")}
    assert hooks == {f"{who}.{hook}" for hook, who in HOOKS}
    assert len(HOOKS) == len(hooks) > 20


def test_the_four_parts_that_users_add_most_have_a_row() -> None:
    assert [cells[0] for cells in table(PARTS)][:4] == ["stage", "sampler", "reducer", "connector"]


def test_the_walks_are_those_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    walks = importlib.import_module("walks")
    recipe = walks.tiny_recipe(tmp_path)
    row = [tuple(name.split()) for name in walks.row_to_loss(recipe)]
    assert [file for file, _ in walk_of(ROW)] == list(dict.fromkeys(file for file, _ in row))  # each, in this order
    assert [(file, name) for file, names in walk_of(ROW) for name in names if (file, name) not in row] == []
    assert set(row) - explained() == set()  # every hop has its reason
    assert explained() - set(row) == set()
    step = [tuple(name.split()) for name in walks.optimizer_step(recipe)]
    shown = [(file, name) for file, names in walk_of(STEP) for name in names]
    assert shown == [call for call in step if call in shown]  # in this order
    calls = [
        f"{who}.{hook}" for hook, who in HOOKS if who not in ("BlankMediaCheck", "StepProgress")
    ]  # which are off here
    first = calls.index("Stage.training_step")  # where the walk begins
    assert calls[first:] + calls[:first] == [name for _, name in step if name in calls]
    assert {file for file, _ in step if file.startswith(("stages/", "training/"))} - {"stages/config.py"} == {
        file for file, _ in shown
    }
