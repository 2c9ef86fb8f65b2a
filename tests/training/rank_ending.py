"""Ranks of test_ending.py: sliced or whole training whose rank 0 cannot write the weights, and that then resumes."""

import os
import resource
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tests.training.rank_checkpoints import NUM_STEPS, build, fit
from tests.training.rank_steps import prepare


class SmallFiles(Callback):
    """Files of rank 0 may not grow beyond 4 KiB once the steps are over."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            set_limit(4096)


def set_limit(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def run(strategy: str, folder: str) -> None:
    prepare()
    fit(strategy, Path(folder) / "whole", build())
    code: Any = None
    try:
        fit(strategy, Path(folder) / "stopped", build(), None, "32-true", SmallFiles())
    except SystemExit as end:
        code = end.code
    set_limit(resource.RLIM_INFINITY)
    (Path(folder) / f"code{os.environ['RANK']}").write_text(str(code))
    last = Path(folder) / "stopped" / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt"
    fit(strategy, Path(folder) / "stopped", build(seed=9), last)
