"""The sbatch script with a recording srun, stage after stage."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lightning_apollo.cli.main import app
from lightning_apollo.recipe.schema import load_recipe
from tests.places import ROOT

SCRIPT = ROOT / "conf" / "slurm" / "train.sbatch"
STAGES = list(load_recipe("videollama3-tiny").stages)


def run(folder: Path, *words: str, stopped_call: int = 0) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """The script's end, and the words of every call of a srun that ends with 75 where it is called for that time."""
    notes = folder / "notes"
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "" >> {notes}\n[ $(grep -c "^$" {notes}) != {stopped_call} ] || exit 75\n'
    )
    srun.chmod(0o755)
    path = f"{srun.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "12", "PATH": path}
    done = subprocess.run(
        ["timeout", "-k", "5", "120", "bash", str(SCRIPT), *words],
        cwd=ROOT,
        env={**os.environ, **job},
        capture_output=True,
        text=True,
        check=False,
    )
    calls = notes.read_text().split("\n\n")[:-1] if notes.exists() else []
    return done, [call.split("\n") for call in calls]


def test_stages_are_commands_that_fit_understands_up_to_one_that_is_stopped(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "videollama3-tiny", "data.root=a folder", "seed=3", stopped_call=2)
    assert done.returncode == 75, done.stderr
    fit = typer.main.get_command(app).commands["fit"]
    parsed = []
    for option, *words in calls:
        assert option == "--kill-on-bad-exit=1"
        assert words[:2] == ["lightning-apollo", "fit"]
        parsed.append(fit.make_context("fit", words[2:]).params)
    assert [params["stage"] for params in parsed] == STAGES[:2]
    for params in parsed:
        assert params["resume"]
        assert params["recipe"] == "videollama3-tiny"
        trainer = load_recipe(params["recipe"], params["overrides"]).trainer
        assert (trainer.num_nodes, trainer.devices, trainer.progress_bar) == (4, "8", False)
        assert params["overrides"][-2:] == ["data.root=a folder", "seed=3"]


@pytest.mark.parametrize(("words", "said"), [((), " recipe"), (("videollama3-tiny", "seeed=1"), "seeed=1: ")])
def test_a_mistake_is_told_once_before_any_task_starts(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done, calls = run(tmp_path, *words)
    assert done.returncode != 0
    assert done.stderr.count(said) == 1
    assert not calls


def test_slurm_signals_the_tasks_in_time_and_may_start_the_job_again() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", SCRIPT.read_text(), flags=re.MULTILINE))
    assert asked["signal"] == "USR1@180"  # no B: before it, which is for the shell
    assert asked.keys() >= {"requeue", "nodes", "ntasks-per-node", "gpus-per-node"}
    assert asked["open-mode"] == "append"
