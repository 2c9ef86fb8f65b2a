"""The end of a stage on a full disk: one line, kept checkpoints and a working --resume."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch import launch
from tests.places import ROOT


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcome of a process that trained on a disk of its own."""
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
    assert list(run["checkpoints"]) == ["step-00000001.ckpt", "step-00000002.ckpt"]
    assert run["partials"] == []  # that of a killed writer is gone as well


def test_weights_that_cannot_be_written_end_the_run_in_one_line(seen: dict[str, Any]) -> None:
    run = seen["at_end"]
    assert run["line"].startswith("the weights of this stage are not in ")
    assert "No space left on device; the checkpoint of step 4 stays" in run["line"]
    assert list(run["checkpoints"]) == ["step-00000003.ckpt", "step-00000004.ckpt"]
    assert run["partials"] == []


def test_resuming_without_a_step_left_finishes_with_the_weights_of_a_run_that_was_never_stopped(
    seen: dict[str, Any],
) -> None:
    assert seen["finished"]["line"] is None
    assert seen["finished"]["steps"] == seen["whole"]["steps"] == ["0", "1", "2", "3"]
    assert seen["model.safetensors"][0] == seen["model.safetensors"][1]
    whole, one = seen["done.json"]
    assert (one["steps"], one["loss"]) == (whole["steps"], whole["loss"])
    assert seen["finished"]["checkpoints"] == {}


def test_the_room_that_is_asked_for_is_that_of_the_files(seen: dict[str, Any]) -> None:
    """To a mebibyte, for headers and what else is small."""
    written = {
        "final": len(seen["model.safetensors"][0]) // 2,
        "checkpoint": seen["at_end"]["checkpoints"]["step-00000004.ckpt"],
    }
    for name, num_bytes in written.items():
        assert num_bytes <= seen["needs"][name] <= num_bytes + 2**20


def test_the_umask_says_who_may_read_the_files_of_a_stage(seen: dict[str, Any]) -> None:
    assert seen["modes"].keys() >= {"model.safetensors", "done.json", "recipe.yaml", "metrics.csv"}
    assert set(seen["modes"].values()) == {"640"}  # umask 027


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_ranks_end_where_one_cannot_write_the_weights_and_resuming_finishes(strategy: str, tmp_path: Path) -> None:
    """Files of rank 0 may not grow beyond 4 KiB after the last step."""
    run = launch(2, "tests.training.rank_ending:run", strategy, str(tmp_path))
    assert run.returncode == 0, run.stdout
    lines = [line for line in run.stdout.splitlines() if "the weights of this stage are not in" in line]
    assert len(lines) == 1
    assert "File too large; the checkpoint of step 4 stays" in lines[0]
    assert [(tmp_path / f"code{rank}").read_text() for rank in range(2)] == [
        "2",
        "0",
    ]  # as of ranks that Lightning started
    whole, stopped = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    assert all((tmp_path / name / "done.json").is_file() for name in ("whole", "stopped"))
