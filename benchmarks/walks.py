"""Walks through the package: from a row to its loss, and one optimizer step.

    python benchmarks/walks.py        prints the functions of both in the order of their first calls, file by file

A stage of the tiny recipe runs on rendered clips. Data are read in the training process, so that every call is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from unittest import mock

import lightning_apollo
from lightning_apollo.data.collate import collate
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.stages.base import Stage
from lightning_apollo.training.losses import token_loss_sum

PACKAGE = Path(lightning_apollo.__file__).parent
STAGE = "vision_encoder_adaptation"  # the first, which needs no weights of another
Walk = dict[str, None]  # "file function" in the order of first calls


def tiny_recipe(folder: Path) -> Recipe:
    """The tiny recipe on few clips, three steps of two samples."""
    stage = f"stages.{STAGE}"
    return load_recipe(
        "videollama3-tiny",
        [
            *(f"output={folder}", f"data.root={folder / 'shapes'}", "data.shapes.num_clips=16"),
            *("data.shapes.num_images=8", "data.shapes.num_held_out=1", "trainer.progress_bar=false"),
            *(
                "trainer.blank_media_check=false",
                "trainer.checkpoint.every_n_steps=100",
                f"{stage}.mixture={{video_qa: 1.0}}",
                f"{stage}.max_steps=3",
            ),
            *(f"{stage}.global_batch_size=2", f"{stage}.micro_batch_size=2", f"{stage}.reducer.kind=diff_fp"),
        ],
    )


@contextmanager
def recorded(walk: Walk) -> Iterator[None]:
    """Note every function of the package that is called inside the block."""

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and "<" not in code.co_name:
            walk.setdefault(f"{Path(code.co_filename).relative_to(PACKAGE)} {code.co_qualname}")

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def row_to_loss(recipe: Recipe) -> Walk:
    """The first row of the stage, prepared alone, packed and run through the model."""
    data = build_data(recipe, STAGE)
    data.prepare_data()
    data.setup("fit")
    dataset = ConversationDataset(data.sources, data.preparer, seed=0, skips_bad=False)
    model = build_model(recipe.model, recipe.stages[STAGE].reducer)
    walk: Walk = {}
    with recorded(walk):
        sample = dataset.prepare(source=0, row=0)
        output = model(collate([sample], data.preparer.settings.patch_size))
        token_loss_sum(output.logits, output.targets)
    return walk


def optimizer_step(recipe: Recipe) -> Walk:
    """The second step of the stage: from its forward pass to the next, without what reads data."""
    walk: Walk = {}
    training_step, recording, calls = Stage.training_step, recorded(walk), count(1)

    def recorded_once(stage: Stage, *arguments: Any, **named: Any) -> Any:
        call = next(calls)
        if call == 2:
            recording.__enter__()
        elif call == 3:
            recording.__exit__(None, None, None)
        return training_step(stage, *arguments, **named)

    with mock.patch.object(Stage, "training_step", recorded_once):
        run_stage(recipe, STAGE, say=lambda line: None)
    return {name: None for name in walk if not name.startswith("data/")}


def show(title: str, walk: Walk) -> None:
    """Print the functions of a walk below their files."""
    files = {name.split()[0] for name in walk}
    print(f"{title}: {len(walk)} functions in {len(files)} files")
    shown = ""
    for name in walk:
        path, function = name.split()
        if path != shown:
            print(f"  {path}")
        print(f"    {function}")
        shown = path


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        recipe = tiny_recipe(Path(folder))
        show("row to loss", row_to_loss(recipe))
        show("one optimizer step", optimizer_step(recipe))
