"""The end of a stage on a disk that is full: one line, the checkpoints stay, and --resume finishes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process saw that trained on a disk of its own."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "disk").mkdir()
    own_mounts = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    command = [*own_mounts, sys.executable, "-m", "tests.training.full_disk"]
    done = subprocess.run(
        [*command, str(folder / "disk"), str(folder / "shapes")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_disk_without_room_for_the_weights_is_refused_before_anything_is_written(seen: dict[str, Any]) -> None:
    line = seen["begin"]["line"]
    assert "has room for 0.1 MB, and the weights of stage videos take " in line
    assert line.endswith("make room, or set output= to another disk")
    assert seen["begin"]["files"] == ["test.yaml"]  # the recipe's own


def test_a_disk_that_is_full_before_the_last_step_ends_the_run_there(seen: dict[str, Any]) -> None:
    run = seen["before_last"]
    assert run["line"].startswith("stopped before the last step: the weights of this stage take ")
    assert (
        "has room for 0.5 MB; the checkpoint of step 2 stays: make room and finish the stage with --resume"
        in run["line"]
    )
    assert run["steps"] == ["0", "1", "2"]  # the row of the step is there
    assert run["checkpoints"] == ["step-00000001.ckpt", "step-00000002.ckpt"]
    assert run["partials"] == []  # that of a killed writer is gone as well


def test_weights_that_cannot_be_written_end_the_run_in_one_line(seen: dict[str, Any]) -> None:
    run = seen["at_end"]
    assert run["line"].startswith("the weights of this stage are not in ")
    assert "No space left on device; the checkpoint of step 4 stays" in run["line"]
    assert run["checkpoints"] == ["step-00000003.ckpt", "step-00000004.ckpt"]
    assert run["partials"] == []


def test_resuming_without_a_step_left_finishes_with_the_weights_of_a_run_that_was_never_stopped(
    seen: dict[str, Any],
) -> None:
    assert seen["finished"]["line"] is None
    assert seen["finished"]["steps"] == seen["whole"]["steps"] == ["0", "1", "2", "3"]
    assert seen["model.safetensors"][0] == seen["model.safetensors"][1]
    whole, one = seen["done.json"]
    assert (one["steps"], one["loss"]) == (whole["steps"], whole["loss"])
    assert seen["finished"]["checkpoints"] == []
