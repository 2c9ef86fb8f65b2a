"""One run of a study: training, evaluation and score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from rich import get_console

from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.evaluation.ask import ask_trained
from lightning_apollo.evaluation.predictions import Prediction, accuracy, results
from lightning_apollo.evaluation.readers.shapes import SHAPES, is_temporal
from lightning_apollo.evaluation.readers.shapes import shapes as read_shapes
from lightning_apollo.evaluation.results import write_results
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.progress import Progress
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.explain import count_parameters
from lightning_apollo.runs.fit import run_recipe
from lightning_apollo.runs.survey import again_by_itself
from lightning_apollo.study.plan import TEMPORAL, StudyRun
from lightning_apollo.study.score import RESULTS, StudyScore, locked, read_score, remove_score, write_score
from lightning_apollo.study.table import StudyError


def run_one(run: StudyRun, kind: str, threads: int | None = None) -> StudyScore:
    """The run's scores, after training and evaluating it unless that is done already.

    A process that is to do the same run waits for the first. Weights that the run left with another recipe are moved aside.
    `kind` is what `StudyScore.score` holds; `threads` are the CPU's.
    """
    with locked(run):
        finished = read_score(run)
        if finished is not None:
            return finished
        remove_score(run)
        started = time.monotonic()
        recipe = _with_threads(run.recipe, threads)
        render_study_data(recipe)
        again = again_by_itself(recipe, "a run of a study", partial(get_console().print, markup=False, soft_wrap=True))
        run_recipe(recipe, resume=True, again=again)
        return finish(run, kind, answer_held_out(recipe), time.monotonic() - started)


def answer_held_out(recipe: Recipe) -> list[Prediction]:
    """The answers of the recipe's last stage to the held-out questions of the built-in set."""
    on_gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    root = Path(recipe.data.root)
    trained = load_trained(recipe, device="cuda" if on_gpu else "cpu")
    return list(ask_trained(trained, list(read_shapes(root)), root))


def finish(run: StudyRun, kind: str, predictions: Sequence[Prediction], seconds: float) -> StudyScore:
    """The run's scores, after writing results.jsonl and then score.json."""
    scores = accuracy(predictions)
    temporal = {prediction.question.category for prediction in predictions if is_temporal(prediction.question)}
    scores[TEMPORAL] = fmean(scores[each] for each in sorted(temporal))
    parameters = count_parameters(run.recipe)["llm"]
    found = StudyScore(run.name, scores[kind], scores, run.fingerprint, parameters, round(seconds, 1))
    write_results(results(predictions, SHAPES, run.name, run.recipe.data.visuals), run.folder / RESULTS)
    write_score(run, found)
    return found


def render_study_data(recipe: Recipe, progress: Progress | None = None) -> None:
    """Render the clips and questions of a recipe unless they are there."""
    assert recipe.data.shapes is not None  # a StudyRun has no other recipe
    try:
        shapes.render_shapes(recipe.data.shapes, Path(recipe.data.root), progress)
    except ValueError as error:
        raise StudyError(f"data.root: {error}") from error


def _with_threads(recipe: Recipe, threads: int | None) -> Recipe:
    if threads is None:
        return recipe
    torch.set_num_threads(threads)
    return replace(recipe, trainer=replace(recipe.trainer, threads=threads))
