"""How the demo turns answers into its table; the demo itself is run by CI, which checks its scores."""

from pathlib import Path

import pytest

from lightning_apollo.demo import MODELS, num_steps, score
from lightning_apollo.demo import _recipe as demo_recipe
from lightning_apollo.evaluation.benchmarks import BenchmarkQuestion, Prediction

QUESTIONS = [
    BenchmarkQuestion(
        "1", "a.mp4", "Which came first?", "red", "first_colour", True, ("red", "blue", "green", "yellow")
    ),
    BenchmarkQuestion(
        "2", "b.mp4", "Which came first?", "blue", "first_colour", True, ("red", "blue", "green", "yellow")
    ),
    BenchmarkQuestion("3", "a.mp4", "How many?", "two", "flashes", True, ("one", "two")),
    BenchmarkQuestion("4", "a.mp4", "Border?", "white", "border", False, ("white", "black")),
]
ANSWERS = {
    "full": ["red", "blue", "two", "black"],
    "single_frame": ["red", "red", "one", "white"],
    "blind": ["green", "green", "one", "black"],
}


def test_scores_by_hand() -> None:
    predictions = {
        name: [Prediction(question, answer) for question, answer in zip(QUESTIONS, answers, strict=True)]
        for name, answers in ANSWERS.items()
    }
    scores = score(predictions)
    assert scores.questions == {
        "first_colour": {"full": 1.0, "single_frame": 0.5, "blind": 0.0, "chance": 0.25},
        "flashes": {"full": 1.0, "single_frame": 0.0, "blind": 0.0, "chance": 0.5},
        "border": {"full": 0.0, "single_frame": 1.0, "blind": 0.0, "chance": 0.5},
    }
    assert scores.temporal == {"full": 1.0, "single_frame": 0.25, "blind": 0.0, "chance": 0.375}


@pytest.mark.parametrize("name", MODELS)
def test_the_models_differ_in_what_they_see_alone(name: str) -> None:
    recipe, full = (demo_recipe(Path("out"), which) for which in (name, "full"))
    assert recipe.data.visuals == name
    assert num_steps(recipe) == num_steps(full) > 0
    assert recipe.stages == full.stages
    assert recipe.model == full.model
    assert (recipe.seed, recipe.data.sources) == (full.seed, full.data.sources)
