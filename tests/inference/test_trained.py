"""What `generate`, `chat`, `evaluate` and `export` take for a checkpoint: a stage's folder, a recipe, an exported folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_apollo.config import RecipeError
from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.trained import find_stage_of, load_checkpoint, trained_weights
from lightning_apollo.stage_state import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.weights.stages import videollama3_with_clips


def test_an_export_answers_as_its_stage_does(tmp_path: Path) -> None:
    recipe, stage = videollama3_with_clips(tmp_path)
    export_stage(recipe, stage.name, stage / WEIGHTS, tmp_path / "exported")
    clip = min((tmp_path / "shapes/clips").iterdir())
    said = [
        answer(load_checkpoint(str(folder)), "Which colour came first?", videos=[clip], max_new_tokens=12)
        for folder in (stage, tmp_path / "exported")
    ]
    assert said[0] == said[1] != ""
    with pytest.raises(RecipeError, match="leave seed=1 out"):
        load_checkpoint(str(tmp_path / "exported"), ["seed=1"])


def test_a_stage_is_found_by_its_folder_or_its_recipe(tmp_path: Path) -> None:
    recipe, folder = videollama3_with_clips(tmp_path)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "videos"))
    assert find_stage_of(str(moved)) == (replace(recipe, output=str(moved.parent)), "videos")
    assert trained_weights(*find_stage_of(str(moved))) == moved / WEIGHTS
    file = str(folder / "recipe.yaml")
    assert trained_weights(*find_stage_of(file, stage="adapt")) == stage_folder(recipe, "adapt") / WEIGHTS
    assert trained_weights(*find_stage_of(str(folder), stage="adapt")) == stage_folder(recipe, "adapt") / WEIGHTS
    assert find_stage_of(file)[1] == "videos"
    with pytest.raises(RecipeError, match="no stage adap: name one of adapt, videos"):
        find_stage_of(file, stage="adap")
    (moved / WEIGHTS).unlink()
    with pytest.raises(RecipeError, match=r"model\.safetensors is not there: train it first"):
        trained_weights(*find_stage_of(str(moved)))
