"""Printed installation commands name packages that an index has."""

import re
import tomllib

import pytest

from lightning_apollo.machine.packages import extra_command, requirements
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"test"}))
def test_the_command_of_an_extra_names_its_packages(extra: str) -> None:
    command = extra_command(extra)
    assert re.findall(r"'([a-z0-9-]+)[<>=]", command) == [re.split("[<>=]", need)[0] for need in EXTRAS[extra]]


def test_what_an_extra_adds_is_not_needed_without_it() -> None:
    assert not {need.name for need in requirements()} & {"gradio", "gguf", "pytest"}


def test_no_source_names_a_distribution_that_no_index_has() -> None:
    files = [
        path for folder in ("lightning_apollo", "conf", "docs", "benchmarks") for path in (ROOT / folder).rglob("*")
    ]
    texts = {".py", ".yaml", ".md", ".html", ".sbatch"}
    read = [path for path in (*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.suffix in texts]
    named = re.compile(r"pip install[^\n`,;]*lightning[-_]apollo|lightning[-_]apollo\[")
    assert [str(path) for path in read if named.search(path.read_text())] == []


def test_make_looks_for_the_versions_of_python_that_were_tried() -> None:
    prefix = "Programming Language :: Python :: 3."
    tried = [f"python3.{name.removeprefix(prefix)}" for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert f"for python in {' '.join(tried)} python3;" in (ROOT / "Makefile").read_text()
