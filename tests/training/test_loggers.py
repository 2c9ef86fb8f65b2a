"""Loggers never end a run. Full disks, absent servers, unread pipes."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_apollo.files import SideFile
from lightning_apollo.training import steady_logger
from lightning_apollo.training.metrics_csv import StepLog
from lightning_apollo.training.steady_logger import SteadyLogger
from tests.places import ROOT
from tests.training.full_logs import FULL_STEPS, NUM_STEPS

IN_NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.slow
def test_a_stage_outlives_a_full_disk_and_its_loggers_resume(tmp_path: Path) -> None:
    """On a tmpfs of 4 MiB; what it holds is copied out before it goes with the namespace."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=4m none "$1" && "$0" -m tests.training.full_logs "$1" && cp -r "$1" "$2"'
    words = [sys.executable, str(disk), str(kept)]
    command = ["timeout", "-k", "5", "240", *IN_NAMESPACE, "sh", "-c", script, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for what in ("metrics.csv", "TensorBoard", "failing"):
        warned = [line for line in done.stderr.splitlines() if what in line and "cannot be written" in line]
        assert len(warned) == 1, done.stderr
        assert what == "failing" or "(No space left on device)" in warned[0]
    assert "Traceback" not in done.stderr
    assert "writes failed; all rows are there now" in done.stderr
    with (kept / "adapt" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(NUM_STEPS))
    assert all(float(row["loss"]) > 0 for row in rows)
    events = EventAccumulator(str(kept / "adapt" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("loss")]
    assert {0, 1, NUM_STEPS - 1} <= set(steps)
    assert FULL_STEPS.stop < NUM_STEPS - 1


class Counted(Logger):
    """Fail at the calls whose numbers it is told; note the steps of the others."""

    def __init__(self, calls: list[int | None], fails: set[int]) -> None:
        super().__init__()
        self.calls, self.fails = calls, fails

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.calls.append(step)
        if step in self.fails:
            raise RuntimeError("server error 500")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


def test_a_logger_that_fails_is_made_anew_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, calls, built = [100.0], [], []
    monkeypatch.setattr(steady_logger.time, "monotonic", lambda: now[0])

    def build(is_first: bool) -> Logger:
        built.append(is_first)
        return Counted(calls, {1, 3})

    steady = SteadyLogger("wandb", build)
    for step, at in enumerate((100.0, 100.1, 100.2, 101.2, 103.0, 103.3)):
        now[0] = at
        steady.log_metrics({}, step)
    assert calls == [0, 1, 3, 5]  # one second after the first error, two after the second
    assert built == [True, False, False]
    assert steady.misses.number == 2
    assert [record.getMessage() for record in caplog.records] == [
        "wandb cannot be written (RuntimeError: server error 500): the run continues, and tries again"
    ]
    now[0] = 104.0
    steady.log_hyperparams({})
    assert steady.misses.number == 3


def test_columns_that_come_later_keep_the_rows_before_them(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    for step, metrics in enumerate(({"loss": 2.0}, {"loss": 1.5}, {"grad_norm": 3.0, "loss": 1.0})):
        log.log_metrics(metrics, step)
        log.save()
    assert (tmp_path / "metrics.csv").read_bytes() == (b"grad_norm,loss,step\r\n,2.0,0\r\n,1.5,1\r\n3.0,1.0,2\r\n")
    resumed = StepLog(tmp_path, num_steps_kept=2)
    resumed.log_metrics({"loss": 0.5}, 2)
    resumed.save()
    assert (tmp_path / "metrics.csv").read_bytes() == b"grad_norm,loss,step\r\n,2.0,0\r\n,1.5,1\r\n,0.5,2\r\n"


def test_a_line_that_was_cut_off_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.write, [5, 0, 100]

    def short_write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            room.pop(0)
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: room.pop(0)])

    monkeypatch.setattr(os, "write", short_write)
    file = SideFile(tmp_path / "list.jsonl")
    file.append('{"a": 1}\n')
    assert (file.misses.number, file.is_behind) == (1, True)
    file.append('{"b": 2}\n')
    monkeypatch.undo()
    assert file.path.read_text() == '{"a": 1}\n{"b": 2}\n'
    assert not file.is_behind


TERMINAL = """
import sys
from lightning_apollo.runs.terminal import steady_terminal
from rich.console import Console
steady_terminal()
for number in range(2000):
    Console().print(f"stage {number}")
    print("step")
open(sys.argv[1], "w").write("came to its end")
"""


@pytest.mark.parametrize("where", ["closed pipe", "full disk"])
def test_a_terminal_that_is_gone_ends_nothing(where: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    command = [sys.executable, "-c", TERMINAL, str(note)]
    if where == "full disk":
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=full, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=writer, check=False)
        os.close(writer)
    assert done.returncode == 0
    assert note.read_text() == "came to its end"
