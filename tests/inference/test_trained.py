"""What `generate` and `chat` take for a checkpoint: a stage's folder, or an exported one."""

from pathlib import Path

import pytest

from lightning_apollo.config import RecipeError
from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.trained import load_checkpoint
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.inference.chat_server import finished_stage


def test_an_export_answers_as_its_stage_does(tmp_path: Path) -> None:
    recipe, stage = finished_stage(tmp_path)
    export_stage(recipe, stage.name, stage / WEIGHTS, tmp_path / "exported")
    clip = min((tmp_path / "shapes/clips").iterdir())
    said = [
        answer(load_checkpoint(str(folder)), "Which colour came first?", videos=[clip], max_new_tokens=12)
        for folder in (stage, tmp_path / "exported")
    ]
    assert said[0] == said[1] != ""
    with pytest.raises(RecipeError, match="leave seed=1 out"):
        load_checkpoint(str(tmp_path / "exported"), ["seed=1"])
