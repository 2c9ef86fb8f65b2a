"""Checkpoints for inference and export: a stage's folder, a recipe or an exported folder."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.trained import find_stage_of, load_checkpoint, trained_weights
from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.weights.stages import videollama3, videollama3_with_clips


def test_an_export_answers_as_its_stage_does(tmp_path: Path) -> None:
    recipe, stage = videollama3_with_clips(tmp_path)
    before = os.umask(0o027)
    export_stage(recipe, stage.name, stage / WEIGHTS, tmp_path / "exported")
    os.umask(before)
    files = [path for path in (tmp_path / "exported").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    clip = min((tmp_path / "shapes/clips").iterdir())
    said = [
        answer(load_checkpoint(str(folder)), "Which colour came first?", videos=[clip], max_new_tokens=12)
        for folder in (stage, tmp_path / "exported")
    ]
    assert said[0] == said[1] != ""
    with pytest.raises(RecipeError, match=r"\bseed=1\b"):
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
    with pytest.raises(RecipeError, match=r"\badap\b.*adapt, videos"):
        find_stage_of(file, stage="adap")
    (moved / WEIGHTS).unlink()
    with pytest.raises(RecipeError, match=r"model\.safetensors is not there: train it first"):
        trained_weights(*find_stage_of(str(moved)))


def finished(folder: Path) -> tuple[Recipe, Path]:
    """The recipe of the tests with its stages finished, and the folder of its last stage; no clips."""
    recipe = videollama3(folder)
    return recipe, stage_folder(recipe, "videos")


def lines_of(*words: str, **options: Any) -> tuple[Recipe, list[str]]:
    """The recipe that `find_stage_of` finds, and what it says."""
    lines: list[str] = []
    recipe, _ = find_stage_of(words[0], words[1:], say=lines.append, **options)
    return recipe, lines


def test_by_recipe_what_was_trained_counts_and_what_differs_now_is_said(tmp_path: Path) -> None:
    trained, folder = finished(tmp_path)
    trained = replace(trained, data=replace(trained.data, budget=replace(trained.data.budget, token_budget=48)))
    save_recipe(trained, folder / "recipe.yaml")  # as after `fit test.yaml data.budget.token_budget=48`
    yaml = str(tmp_path / "test.yaml")
    found, lines = lines_of(yaml)
    assert found == trained
    assert lines == [
        f"{yaml} has changed since stage videos was trained, and what it was trained with counts: "
        "data.budget.token_budget was 48 and is 64"
    ]
    assert lines_of(str(folder)) == (trained, [])
    # What changes neither weights nor answers is not worth a line: ranks, workers, spellings of paths
    words = ("trainer.devices=2", "data.num_workers=3", f"output={tmp_path}/./", f"data.root={tmp_path}//shapes/")
    assert lines_of(str(folder), *words)[1] == []
    for word in ("stages.videos.max_steps=7", "seed=5", "stages.videos.reducer.kind=none", "data.system_prompt=Hi"):
        key = word.partition("=")[0]
        (line,) = lines_of(str(folder), word)[1]
        assert line.startswith(f"stage videos is asked otherwise than it was trained: {key} was ")


def test_words_count_above_what_was_trained(tmp_path: Path) -> None:
    _, folder = finished(tmp_path)
    for checkpoint in (str(folder), str(tmp_path / "test.yaml")):
        found, lines = lines_of(checkpoint, "data.budget.token_budget=32")
        assert found.data.budget.token_budget == 32
        assert lines == [
            "stage videos is asked otherwise than it was trained: data.budget.token_budget was 64 and is 32"
        ]


def test_other_data_in_the_recipe_are_said_and_a_moved_output_is_not(tmp_path: Path) -> None:
    _, folder = finished(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved / "videos")
    yaml = tmp_path / "test.yaml"
    assert lines_of(str(yaml), f"output={moved}")[1] == []
    yaml.write_text(yaml.read_text().replace("[video_qa.jsonl]", "[video_captions.jsonl]"))
    (line,) = lines_of(str(yaml), f"output={moved}")[1]
    assert line.endswith("what it was trained with counts: data of source videos lie elsewhere")


def test_each_stage_is_asked_by_its_own_recipe(tmp_path: Path) -> None:
    """The first stage was trained with another seed than the second."""
    recipe, folder = finished(tmp_path)
    save_recipe(replace(recipe, seed=9), folder.parent / "adapt" / "recipe.yaml")
    assert find_stage_of(str(folder), stage="adapt")[0].seed == 9
    assert find_stage_of(str(tmp_path / "test.yaml"), stage="adapt")[0].seed == 9
    assert find_stage_of(str(tmp_path / "test.yaml"))[0].seed == recipe.seed


def test_a_recipe_of_another_installation_finds_its_tokenizer_in_this_one(tmp_path: Path) -> None:
    recipe, folder = finished(tmp_path)
    file = folder / "recipe.yaml"
    save_recipe(recipe, file)
    assert "tokenizer: model/tiny_tokenizer" in file.read_text()  # and no path of this installation
    file.write_text(
        file.read_text().replace("model/tiny_tokenizer", "/gone/conf/model/tiny_tokenizer")
    )  # as 0.1.0 wrote
    assert find_stage_of(str(folder))[0] == recipe
