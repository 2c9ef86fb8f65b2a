"""Checkpoints: atomic writes, the last few kept and full disks."""

import errno
import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_apollo.training.callbacks.checkpoint import (
    CheckpointFile,
    StepCheckpoint,
    checkpoint_step,
    latest_checkpoint,
)
from lightning_apollo.training.callbacks.resume import ExactResume, convert_batch_progress
from lightning_apollo.training.config import CheckpointConfig
from lightning_apollo.training.random_states import random_states, set_random_states
from lightning_apollo.training.sharding import build_strategy
from tests.quiet_trainer import quiet_trainer
from tests.warm import warm


class Counting(LightningModule):
    """A weight that counts steps; every step adds dropout's noise."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return -torch.nn.functional.dropout(self.weight + 1, 0.5).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(
    folder: Path, num_batches: int = 8, accumulate: int = 1, width: int = 4, strategy: str = "auto", **config: Any
) -> StepCheckpoint:
    saving = StepCheckpoint(folder, CheckpointConfig(**config))
    trainer = quiet_trainer(
        devices=1,
        strategy=build_strategy(strategy),
        accumulate_grad_batches=accumulate,
        callbacks=[ExactResume(), saving],
        plugins=[CheckpointFile()],
    )
    trainer.fit(Counting(width), DataLoader(TensorDataset(torch.zeros(num_batches, 1))))
    return saving


def steps(folder: Path) -> list[int]:
    return sorted(checkpoint_step(path) for path in folder.glob("*.ckpt"))


def test_the_last_checkpoints_stay_at_the_edges_of_steps(tmp_path: Path) -> None:
    fit(tmp_path, num_batches=16, accumulate=2, every_n_steps=3, keep=1)
    assert steps(tmp_path) == [6]
    fit(tmp_path / "two", every_n_steps=2, keep=2)
    assert steps(tmp_path / "two") == [6, 8]
    assert not list(tmp_path.rglob("*.partial"))
    checkpoint = torch.load(tmp_path / "step-00000006.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000006.ckpt"
    assert latest_checkpoint(tmp_path / "none") is None


def test_a_full_disk_costs_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The third and fourth write end as on a full disk, in the middle of the file."""
    write, calls = torch.save, []

    def save(checkpoint: Any, file: Any) -> None:
        calls.append(file.name)
        if len(calls) in (3, 4):
            file.write(b"the first part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(checkpoint, file)

    monkeypatch.setattr(torch, "save", save)
    with caplog.at_level(logging.ERROR):
        saving = fit(tmp_path, every_n_steps=2, keep=2)
    assert len(calls) == 4
    assert saving.num_failures == 2
    assert steps(tmp_path) == [2, 4]
    assert not list(tmp_path.glob("*.partial"))
    (line, *_) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert line.startswith(
        "no checkpoint of step 6: No space left on device; the last one is that of step 4. Make room"
    )


@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_a_real_limit_of_the_system_costs_a_checkpoint(strategy: str, tmp_path: Path) -> None:
    """A file may not grow beyond 64 KiB here, which PyTorch's own writers report."""
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom tests.training.test_checkpoint import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "saving = fit(Path(sys.argv[1]), width=100_000, strategy=sys.argv[2], every_n_steps=4)\n"
        "print(saving.num_failures, steps(Path(sys.argv[1])))"
    )
    command = warm("-c", program, str(tmp_path), strategy)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "2 []", done.stderr
    assert "no checkpoint of step 4: " in done.stderr
    assert not list(tmp_path.iterdir())  # nothing of what was begun
    assert "there is none. Make room" in done.stderr


def test_a_kill_in_the_middle_of_a_save_leaves_the_one_before(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nimport torch\nfrom tests.training.test_checkpoint import *\n"
        "write, calls = torch.save, []\n"
        "def save(checkpoint, file):\n"
        "    calls.append(file)\n"
        "    if len(calls) == 2:\n"
        "        file.write(b'the first part'); file.flush(); time.sleep(600)\n"
        "    write(checkpoint, file)\n"
        "torch.save = save\n"
        "fit(Path(sys.argv[1]), every_n_steps=2)"
    )
    with subprocess.Popen(warm("-c", program, str(tmp_path)), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("step-00000004.partial")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "step-00000004.partial").read_bytes() == b"the first part"
    last = latest_checkpoint(tmp_path)
    assert last is not None
    assert torch.load(last, weights_only=True)["global_step"] == 2
    fit(tmp_path, every_n_steps=4, keep=9)
    assert steps(tmp_path) == [2, 4, 8]
    assert not list(tmp_path.glob("*.partial"))


def test_random_states_come_back_and_hold_plain_tensors() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    before = random_states()
    first = draw()
    assert draw() != first
    set_random_states(before)
    assert draw() == first
    assert all(isinstance(state, torch.Tensor) for state in before.values())


def test_counts_of_one_rank_are_converted_and_kept_at_the_edge_of_a_step() -> None:
    counts = {"ready": 6, "started": 6, "processed": 6, "completed": 5}
    progress = {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    convert_batch_progress(progress, old_accumulated=2, new_accumulated=1)
    assert progress["current"] == progress["total"] == {"ready": 3, "started": 3, "processed": 3, "completed": 2}
    with pytest.raises(ValueError, match=r"edge.*\b2 micro-batches"):
        convert_batch_progress(progress, old_accumulated=2, new_accumulated=1)


@pytest.mark.parametrize("key", ["every_n_steps", "keep"])
def test_impossible_checkpoints_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"checkpoint\.{key}.*1.*0"):
        CheckpointConfig(**{key: 0})


def test_three_checkpoints_come_before_the_last_step_unless_told_otherwise(tmp_path: Path) -> None:
    for num_steps in (4, 5, 7, 100, 101, 1999):
        every = CheckpointConfig().interval(num_steps)
        assert len(range(every, num_steps, every)) >= 3
    assert [CheckpointConfig().interval(num_steps) for num_steps in (1, 3, 100, 2000, 50_000)] == [1, 1, 25, 500, 500]
    assert CheckpointConfig(every_n_steps=700).interval(1000) == 700
    fit(tmp_path, num_batches=9, keep=9)
    assert steps(tmp_path) == [2, 4, 6, 8]


def test_a_folder_that_cannot_be_made_costs_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.ERROR):
        assert fit(tmp_path / "file" / "checkpoints", every_n_steps=4).num_failures == 2
    assert caplog.records[0].getMessage().startswith("no checkpoint of step 4: Not a directory; there is none.")
