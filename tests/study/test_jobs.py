"""Runs in real processes: resumption after a kill, failures and a script for Slurm."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.study.jobs import cli_command, run_all, slurm_script
from lightning_apollo.study.score import LOG, StudyScore, last_line, locked, read_score, status, write_score

NUM_RUNS = 6


@dataclass(frozen=True)
class FakeRun:
    """Stand-in of a run for those who start it."""

    name: str
    folder: Path
    fingerprint: str = "now"


def runs_in(folder: Path) -> list[Any]:
    return [FakeRun(f"run{number}", folder / f"run{number}") for number in range(NUM_RUNS)]


def main(folder: Path, name: str) -> None:
    """One fake run: says that it began, takes a moment, writes its score the way a real one does."""
    run: Any = next(run for run in runs_in(folder) if run.name == name)
    with locked(run):
        if read_score(run) is not None:
            return
        with (folder / "begun").open("a") as begun:
            begun.write(f"{name}\n")
        time.sleep(0.3)
        write_score(run, StudyScore(name, 0.5, {"temporal": 0.5}, run.fingerprint, 1, 0.3))


def command(run: Any) -> list[str]:
    return [sys.executable, "-m", "tests.study.test_jobs", "one", str(run.folder.parent), run.name]


def run_missing(folder: Path) -> None:
    runs = [run for run in runs_in(folder) if read_score(run) is None]
    assert run_all(runs, 2, command, 1, lambda run, score: None) == []


def count_begun(folder: Path) -> Counter[str]:
    path = folder / "begun"
    return Counter(path.read_text().split() if path.is_file() else [])


@pytest.mark.parametrize("takes_all", [True, False], ids=["machine", "parent"])
def test_a_killed_study_does_only_what_is_missing(tmp_path: Path, takes_all: bool) -> None:
    study = [sys.executable, "-m", "tests.study.test_jobs", "all", str(tmp_path)]
    first = subprocess.Popen(study, start_new_session=True)
    deadline = time.monotonic() + 60
    while sum(read_score(run) is not None for run in runs_in(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if takes_all:
        os.killpg(first.pid, signal.SIGKILL)
    else:  # the runs that it started continue
        first.kill()
    first.wait()
    finished = {run.name for run in runs_in(tmp_path) if read_score(run) is not None}
    assert 2 <= len(finished) < NUM_RUNS
    assert subprocess.run(study, check=False).returncode == 0
    begun = count_begun(tmp_path)
    assert all(read_score(run) is not None for run in runs_in(tmp_path))
    assert {name for name in finished if begun[name] != 1} == set()
    assert sum(begun.values()) <= NUM_RUNS + (2 if takes_all else 0)  # what was cut short began twice
    before = begun
    run_missing(tmp_path)
    assert count_begun(tmp_path) == before


def test_a_changed_recipe_is_run_again(tmp_path: Path) -> None:
    run: Any = FakeRun("run0", tmp_path / "run0")
    main(tmp_path, "run0")
    assert status(run) == "done"
    changed: Any = FakeRun("run0", tmp_path / "run0", fingerprint="changed")
    assert (status(changed), read_score(changed)) == ("stale", None)


def test_a_run_that_fails_stops_no_other(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)[:3]
    told: list[tuple[str, bool]] = []

    def command_of(run: Any) -> list[str]:
        programs = {"run0": "print('about to'); raise SystemExit('no space left')", "run1": "import os; os.abort()"}
        return [sys.executable, "-c", programs[run.name]] if run.name in programs else command(run)

    failed = run_all(runs, 1, command_of, None, lambda run, score: told.append((run.name, score is not None)))
    assert [run.name for run in failed] == ["run0", "run1"]
    assert sorted(told) == [("run0", False), ("run1", False), ("run2", True)]
    assert [status(run) for run in runs] == ["failed", "failed", "done"]
    assert (runs[0].folder / LOG).read_text() == "about to\nno space left\n"
    assert [last_line(run) for run in runs] == ["no space left", "ended by signal 6", ""]


def test_a_process_without_a_score_has_failed(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    assert run_all([run], 1, lambda run: [sys.executable, "-c", ""], None, lambda run, score: None) == [run]


def test_runs_get_their_threads(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    words = [sys.executable, "-c", "import os; print(os.environ.get('OMP_NUM_THREADS'))"]
    run_all([run], 1, lambda run: words, 3, lambda run, score: None)
    assert last_line(run) == "3"
    assert cli_command("mine.yaml", 3)(run)[2:] == [
        *("lightning_apollo", "study", "run", "mine.yaml", "--only", "run0", "--threads", "3")
    ]


def test_a_run_that_is_held_is_running(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    assert status(run) == "missing"
    with locked(run):
        assert status(run) == "running"
    assert status(run) == "missing"


def test_the_slurm_script_runs_each_missing_run(tmp_path: Path) -> None:
    script = tmp_path / "study.sh"
    script.write_text(slurm_script("my study.yaml", "mine", "out put", runs_in(tmp_path)[1:4]))
    assert "#SBATCH --array=0-2\n" in script.read_text()
    (tmp_path / "lightning-apollo").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "lightning-apollo").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", script], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "out put" / "run3" / LOG).read_text() == "study|run|my study.yaml|--only|run3|"


if __name__ == "__main__":
    if sys.argv[1] == "one":
        main(Path(sys.argv[2]), sys.argv[3])
    else:
        run_missing(Path(sys.argv[2]))
