"""The demo's table from answers. The demo itself is run by CI, which checks its scores."""

import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from lightning_apollo import demo
from lightning_apollo.demo import MODELS, num_steps, score
from lightning_apollo.demo import _recipe as demo_recipe
from lightning_apollo.evaluation.predictions import Prediction
from lightning_apollo.evaluation.results import QuestionResult, read_results
from lightning_apollo.pages.report import ClipView
from tests.evaluation.shapes_questions import shapes_question

QUESTIONS = [
    shapes_question("1", "a.mp4", "Which came first?", "red", "first_colour", True, ("red", "blue", "green", "yellow")),
    shapes_question(
        "2", "b.mp4", "Which came first?", "blue", "first_colour", True, ("red", "blue", "green", "yellow")
    ),
    shapes_question("3", "a.mp4", "How many?", "two", "flashes", True, ("one", "two")),
    shapes_question("4", "a.mp4", "Border?", "white", "border", False, ("white", "black")),
]
ANSWERS = {
    "full": ["red", "blue", "two", "black"],
    "single_frame": ["red", "red", "one", "white"],
    "blind": ["green", "green", "one", "black"],
}


PREDICTIONS = {
    name: [Prediction(question, answer) for question, answer in zip(QUESTIONS, answers, strict=True)]
    for name, answers in ANSWERS.items()
}


def test_scores_by_hand() -> None:
    scores = score(PREDICTIONS)
    assert scores.questions == {
        "first_colour": {"full": 1.0, "single_frame": 0.5, "blind": 0.0, "chance": 0.25},
        "flashes": {"full": 1.0, "single_frame": 0.0, "blind": 0.0, "chance": 0.5},
        "border": {"full": 0.0, "single_frame": 1.0, "blind": 0.0, "chance": 0.5},
    }
    assert scores.temporal == {"full": 1.0, "single_frame": 0.25, "blind": 0.0, "chance": 0.375}


@pytest.mark.parametrize("recipe_name", ["videollama3-tiny", "apollo-tiny"])
@pytest.mark.parametrize("name", MODELS)
def test_the_models_differ_in_what_they_see_alone(recipe_name: str, name: str) -> None:
    recipe, full = (demo_recipe(recipe_name, Path("out"), which) for which in (name, "full"))
    assert recipe.data.visuals == name
    assert num_steps(recipe) == num_steps(full) > 0
    assert recipe.stages == full.stages
    assert recipe.model == full.model
    assert (recipe.seed, recipe.data.sources) == (full.seed, full.data.sources)


def test_every_answer_is_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, returned in {"_render": None, "_train": None, "_ask_all": PREDICTIONS, "_write": None}.items():
        monkeypatch.setattr(demo, step, lambda *_, returned=returned: returned)
    monkeypatch.setattr(demo, "_clips", lambda *_: [ClipView("a clip", (), ())])
    demo.run_demo(tmp_path)
    results = read_results(tmp_path / "results.jsonl")
    assert [(result.mode, result.question_id) for result in results] == [(m, i) for m in MODELS for i in "1234"]
    assert results[1] == QuestionResult(
        "shapes", "2", "first_colour", "videollama3-tiny", "full", "blue", "blue", is_right=True
    )
    assert not results[5].is_right


def test_what_an_earlier_version_trained_is_moved_aside_and_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {name: demo_recipe("apollo-tiny", tmp_path, name) for name in MODELS}
    for name in ("full", "blind"):
        folder = tmp_path / name / "connector_alignment"
        folder.mkdir(parents=True)
        for file in ("model.safetensors", "done.json"):
            (folder / file).write_text("{}")
    calls: list[object] = []
    commands: list[list[str]] = []

    def start(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[-2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(demo, "run_recipe", lambda recipe, **how: calls.append(how["again"]))
    monkeypatch.setattr(demo.subprocess, "run", start)
    console = Console(file=StringIO(), width=1000)
    demo._train(recipes, tmp_path, console)
    assert calls == [""]
    assert isinstance(console.file, StringIO)
    line = console.file.getvalue().splitlines()[0]
    for said in (line, (tmp_path / "blind" / "fit.log").read_text()):
        assert "trained by an earlier version, which did not note from what" in said
        assert said.rstrip().endswith("after it aside; the demo does the latter")
    assert commands == [[str(tmp_path / "single_frame" / "recipe.yaml"), "--resume"], ["--resume", "--again"]]
