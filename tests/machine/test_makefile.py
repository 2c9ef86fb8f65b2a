"""The Makefile with a recorded Python, in a folder whose name has a space and an umlaut."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.machine.checkout import ROOT

PYTHON = """#!/bin/sh
echo "$@" >> {log}
case "$1 $2" in
    "-V "*) echo "Python {version}" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-c import sys;"*) exit {is_too_old} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "mein projekt ü"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def recorded_python(folder: Path, version: str, is_too_old: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    python = folder / f"python {version}"
    log = f"'{folder}/log'"
    python.write_text(PYTHON.format(log=log, version=version, is_too_old=int(is_too_old)))
    python.chmod(0o755)
    return python


def make(checkout: Path, *words: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.partition("\n")[0]


def test_a_python_is_taken_by_its_path(checkout: Path, tmp_path: Path) -> None:
    python = recorded_python(tmp_path / "bin", "3.12.1")
    assert make(checkout, "setup", f"PYTHON={python}") == (0, "")
    asked = (tmp_path / "bin/log").read_text().splitlines()[2:]
    assert asked[0] == "-m venv .venv"
    places = [
        next(n for n, line in enumerate(asked) if word in line) for word in ("ffmpeg.py", "torch==", "--editable .")
    ]
    assert places == sorted(places), "FFmpeg is asked for before gigabytes are downloaded"
    assert asked[-1] == "-m lightning_apollo.machine.video_libraries"


def test_what_is_no_python_is_refused(checkout: Path, tmp_path: Path) -> None:
    for python in ("python3.99", "", str(recorded_python(tmp_path / "bin", "3.10.13", is_too_old=True))):
        code, line = make(checkout, "setup", f"PYTHON={python}")
        named = python or "python3"
        assert code == 2
        assert line == f"{named} is no Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3"
        assert not (checkout / ".venv").exists()


def test_another_python_than_that_of_the_environment_is_refused(checkout: Path, tmp_path: Path) -> None:
    first, second = (recorded_python(tmp_path / version, version) for version in ("3.12.1", "3.13.0"))
    assert make(checkout, "setup", f"PYTHON={first}") == (0, "")
    assert make(checkout, "setup", f"PYTHON={first}") == make(checkout, "setup") == (0, "")
    code, line = make(checkout, "setup", f"PYTHON={second}")
    assert (code, line) == (2, f".venv has Python 3.12.1, not {second}: make clean, then make again")
