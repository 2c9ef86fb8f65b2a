"""Train a stage on a disk that is full at chosen moments, for tests of the end of a stage.

unshare -rm python -m tests.training.full_disk DISK SHAPES      DISK: a folder on which a tmpfs is mounted, in this process's
                                                              view alone; SHAPES: where the built-in set is rendered

Prints what was seen as one JSON object.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.errors import UserError
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs import fit
from lightning_apollo.runs.room import stage_bytes
from lightning_apollo.runs.stage_folder import stage_folder
from tests.small_recipe import recipe

STAGE = "videos"
NUM_STEPS = 4
DISK_BYTES = 40_000_000


class Filler(Callback):
    """Leave `num_free` bytes on the disk after optimizer step `step`, or where it is None when the last one is over."""

    def __init__(self, disk: Path, step: int | None, num_free: int) -> None:
        self.disk, self.step, self.num_free = disk, step, num_free

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            fill(self.disk, self.num_free)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step is None:
            fill(self.disk, self.num_free)


def fill(disk: Path, num_free: int) -> None:
    """Put one file of zeros on the disk, so that no more than `num_free` bytes are free."""
    (disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - num_free)))


def filled(filler: Filler) -> Callable[[Recipe, str], list[Callback]]:
    """In the place of `fit.stage_callbacks`: a filler, and the stage's own."""

    def callbacks(recipe: Recipe, name: str) -> list[Callback]:
        return [filler, *stage_callbacks(recipe, name)]

    return callbacks


stage_callbacks = fit.stage_callbacks


def small(output: Path, shapes: Path) -> Recipe:
    """The recipe with its second stage alone, with dropout, which so begins from random weights."""
    output.mkdir(exist_ok=True)
    words = (
        f"stages.{STAGE}.max_steps={NUM_STEPS}",
        "model.llm.attention_dropout=0.3",
        "trainer.blank_media_check=false",
    )
    words += ("data.shapes.num_clips=3", "data.shapes.num_images=8")
    one = recipe(output, f"data.root={shapes}", *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


def train(one: Recipe, disk: Path, filler: Filler | None, *, resume: bool = False) -> dict[str, Any]:
    """Outcome of a run: the line in which it ends, and the files and rows that it leaves. The disk is empty again then."""
    fit.stage_callbacks = filled(filler) if filler else stage_callbacks
    line = None
    try:
        fit.run_stage(one, STAGE, resume)
    except UserError as error:
        line = str(error)
    (disk / "filler").unlink(missing_ok=True)
    folder = stage_folder(one, STAGE)
    with (folder / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file)]
    checkpoints = {path.name: path.stat().st_size for path in sorted(folder.glob("checkpoints/*.ckpt"))}
    partials = [path.name for path in folder.rglob("*.partial")]
    return {"line": line, "steps": steps, "checkpoints": checkpoints, "partials": partials}


def main(disk: Path, shapes: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    whole, one = small(disk / "whole", shapes), small(disk / "one", shapes)
    os.umask(0o027)
    seen: dict[str, Any] = {"whole": train(whole, disk, None)}
    fill(disk, 100_000)
    try:
        fit.run_stage(one, STAGE)
    except UserError as error:
        seen["begin"] = {"line": str(error), "files": [path.name for path in Path(one.output).rglob("*")]}
    (disk / "filler").unlink()
    leftover = stage_folder(one, STAGE) / f"model.safetensors.{'0' * 32}.partial"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(bytes(1_000_000))  # as a writer leaves it that was killed
    seen["before_last"] = train(one, disk, Filler(disk, NUM_STEPS - 1, 500_000))
    seen["at_end"] = train(one, disk, Filler(disk, None, 100_000), resume=True)
    seen["finished"] = train(one, disk, None, resume=True)
    seen["needs"] = asdict(stage_bytes(one, STAGE))
    files = sorted(stage_folder(one, STAGE).rglob("*"))
    seen["modes"] = {path.name: f"{path.stat().st_mode & 0o777:o}" for path in files if path.is_file()}
    for name in ("model.safetensors", "done.json"):
        paths = [stage_folder(run, STAGE) / name for run in (whole, one)]
        seen[name] = [path.read_bytes().hex() if name.endswith("s") else json.loads(path.read_text()) for path in paths]
    sys.stdout.write("\n" + json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
