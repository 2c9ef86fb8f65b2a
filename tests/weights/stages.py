"""Folders of finished stages without a training: the shipped tiny models with random weights that give long answers."""

import json
from dataclasses import replace
from pathlib import Path

from lightning_apollo.data.shapes.dataset import render_shapes
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, load_recipe, save_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS
from tests import small_recipe
from tests.models.clips import randomize


def videollama3(folder: Path, *words: str, system_prompt: str = "") -> Recipe:
    """The recipe of the tests, and its two stages finished."""
    folder.mkdir(exist_ok=True)
    recipe = small_recipe.recipe(folder, *words)
    recipe = replace(recipe, data=replace(recipe.data, system_prompt=system_prompt))
    finish(recipe)
    return recipe


def videollama3_with_clips(folder: Path) -> tuple[Recipe, Path]:
    """The same with its clips, and the folder of its last stage."""
    recipe = videollama3(folder)
    assert recipe.data.shapes is not None
    render_shapes(recipe.data.shapes, Path(recipe.data.root))
    return recipe, stage_folder(recipe, "videos")


def apollo(folder: Path) -> Recipe:
    """The shipped tiny Apollo with every stage finished."""
    recipe = load_recipe("apollo-tiny", [f"output={folder}", f"data.root={folder / 'shapes'}"])
    finish(recipe)
    return recipe


def finish(recipe: Recipe) -> None:
    for seed, name in enumerate(recipe.stages):
        model = build_model(recipe.model, recipe.stages[name].reducer)
        randomize(model, seed)
        folder = stage_folder(recipe, name)
        folder.mkdir(parents=True)
        save_weights(model, folder / WEIGHTS)
        save_recipe(recipe, folder / "recipe.yaml")
        (folder / DONE).write_text(json.dumps({"steps": 3 + seed, "loss": 0.5}))
