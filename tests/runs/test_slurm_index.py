"""The sbatch script of an index with a recording sbatch and command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lightning_apollo.cli.data import app
from lightning_apollo.cli.data_index import IndexMergeGroup
from lightning_apollo.data.index.shards import Shard
from lightning_apollo.recipe.schema import load_recipe
from tests.places import ROOT

SCRIPT = ROOT / "conf" / "slurm" / "index.sbatch"
WORDS = ("4", "videollama3-tiny", "data.root=a folder", "seed=3")


def run(folder: Path, *words: str, **job: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """The script's end, and the words of every call of sbatch and of our command; sbatch answers with a job's number."""
    notes = folder / "notes"
    for name, answer in {"sbatch": "17;cluster", "lightning-apollo": ""}.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" "" >> {notes}\necho "{answer}"\n')
        command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {**job, "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["timeout", "-k", "5", "120", "bash", str(SCRIPT), *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    calls = notes.read_text().split("\n\n")[:-1] if notes.exists() else []
    return done, [call.strip("\n").split("\n") for call in calls]


def parsed(words: list[str]) -> tuple[str, dict]:
    """The command of `lightning-apollo data` that these words are, and its parameters."""
    assert words[:2] == ["lightning-apollo", "data"]
    group = typer.main.get_command(app)
    assert isinstance(group, IndexMergeGroup)
    context = typer.Context(group)
    name, command, rest = group.resolve_command(context, words[2:])
    params = command.make_context(name, rest).params
    assert load_recipe(params["recipe"], params["words"]).seed == 3
    assert params["words"] == ["data.root=a folder", "seed=3"]
    return name, params


def test_bash_reads_the_script() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_an_array_and_a_merge_that_waits_for_it_are_submitted(tmp_path: Path) -> None:
    done, calls = run(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr
    array, merge = calls
    assert array == ["sbatch", "--parsable", "--array=0-3", str(SCRIPT), *WORDS]
    assert merge[:2] == ["sbatch", "--dependency=afterok:17"]
    assert "--kill-on-invalid-dep=yes" in merge
    assert merge[-len(WORDS) - 1 :] == [str(SCRIPT), *WORDS]


@pytest.mark.parametrize("task", [0, 3])
def test_a_task_does_its_shard(task: int, tmp_path: Path) -> None:
    # submitted again alone, so that the array's own count is 1
    job = {
        "SLURM_JOB_ID": "18",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": "1",
        "SLURM_CPUS_PER_TASK": "8",
    }
    done, calls = run(tmp_path, *WORDS, **job)
    assert done.returncode == 0, done.stderr
    (call,) = calls
    name, params = parsed(call)
    assert name == "index"
    assert (Shard.parse(params["shard"], {}), params["jobs"]) == (Shard(task, 4), 8)


def test_a_job_without_an_array_merges(tmp_path: Path) -> None:
    done, calls = run(tmp_path, *WORDS, SLURM_JOB_ID="19", SLURM_CPUS_PER_TASK="2")
    assert done.returncode == 0, done.stderr
    (call,) = calls
    assert parsed(call)[0] == "index merge"


@pytest.mark.parametrize(("words", "said"), [((), "say how many shards"), (("4",), "name a recipe")])
def test_a_mistake_submits_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done, calls = run(tmp_path, *words)
    assert done.returncode != 0
    assert done.stderr.count(said) == 1
    assert not calls


def test_slurm_starts_a_task_again_and_keeps_its_log() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", SCRIPT.read_text(), flags=re.MULTILINE))
    assert asked["open-mode"] == "append"
    assert asked.keys() >= {"requeue", "cpus-per-task", "mem", "time"}
    assert "array" not in asked  # the number of shards is given once
