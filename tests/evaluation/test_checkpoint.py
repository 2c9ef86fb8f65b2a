"""Evaluation of a stage's folder on a benchmark, from the command line to the table; the model has learnt nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.evaluate import app
from lightning_apollo.data.shapes.dataset import render_shapes
from lightning_apollo.evaluation.registry import BENCHMARKS
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.inference.trained import find_stage_of
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.small_recipe import recipe as small_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe with rendered clips, and the weights of its last stage as they were drawn."""
    recipe = small_recipe(tmp_path_factory.mktemp("runs"))
    assert recipe.data.shapes is not None
    render_shapes(recipe.data.shapes, Path(recipe.data.root))
    folder = stage_folder(recipe, "videos")
    folder.mkdir(parents=True)
    save_weights(build_model(recipe.model, recipe.stages["videos"].reducer), folder / WEIGHTS)
    save_recipe(recipe, folder / "recipe.yaml")
    return recipe


def test_from_the_command_line_to_the_table(recipe: Recipe, tmp_path: Path) -> None:
    """The stage's folder was moved, and it is shown fewer frames than in training."""
    moved = tmp_path / "elsewhere" / "videos"
    shutil.copytree(stage_folder(recipe, "videos"), moved)
    words = ["run", str(moved), "data.sampling.max_frames=4", "--benchmark", "shapes", "--data", recipe.data.root]
    words += ["--modes", "full,blind"]
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert "Built-in video QA set, held-out clips: video" in said.output
    output = moved / "evaluation" / "shapes"
    results = read_results(output / "results.jsonl")
    assert len(results) == 10  # one held-out clip, five questions, two modes
    assert {result.model for result in results} == {"test"}
    settings = json.loads((output / "settings.json").read_text())
    assert (settings["sampling"]["fps"], settings["sampling"]["max_frames"]) == (2.0, 4)
    assert len(settings["weights"]) == 64
    again = CliRunner().invoke(app, [*words[1:], "--limit", "1"], catch_exceptions=False)  # without `run`
    assert again.exit_code == 0
    assert len((output / "answers-0.jsonl").read_text().splitlines()) == 10


def test_an_export_gives_the_answers_of_its_stage(recipe: Recipe, tmp_path: Path) -> None:
    stage, exported = stage_folder(recipe, "videos"), tmp_path / "exported"
    export_stage(recipe, "videos", stage / WEIGHTS, exported)
    answers = []
    for folder in (stage, exported):
        words = ["run", str(folder), "--benchmark", "shapes", "--data", recipe.data.root, "--output"]
        said = CliRunner().invoke(app, [*words, str(tmp_path / folder.name)], catch_exceptions=False)
        assert said.exit_code == 0, said.output
        results = read_results(tmp_path / folder.name / "results.jsonl")
        answers.append([(result.question_id, result.answer) for result in results])
    assert answers[0] == answers[1]
    assert {result.model for result in results} == {"exported"}


def test_errors_are_one_line(recipe: Recipe, tmp_path: Path) -> None:
    folder = str(stage_folder(recipe, "videos"))
    for words, message in (
        (["run", folder, "--benchmark", "shape", "--data", "."], "there is no benchmark shape, did you mean shapes?"),
        (
            ["run", str(tmp_path), "--benchmark", "shapes", "--data", "."],
            "has no recipe.yaml: name the folder of a stage",
        ),
        (["run", folder, "--benchmark", "gqa", "--data", str(tmp_path)], "has no testdev_balanced_questions.json"),
    ):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 2
        assert message in said.output.replace("\n", " ")


def test_a_folder_of_another_name_is_no_stage(recipe: Recipe, tmp_path: Path) -> None:
    renamed = tmp_path / "other"
    shutil.copytree(stage_folder(recipe, "videos"), renamed)
    with pytest.raises(RecipeError, match=r"other\b.*adapt, videos"):
        find_stage_of(str(renamed))


def test_a_recipe_stands_for_its_last_stage() -> None:
    recipe, stage = find_stage_of("videollama3-tiny")
    assert stage == list(recipe.stages)[-1]


def test_the_list_has_every_benchmark() -> None:
    said = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"}).output
    assert all(name in said for name in BENCHMARKS)
    assert "lvb_val.json" in said


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, lightning_apollo.cli.evaluate; sys.exit(bool({'torch', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
