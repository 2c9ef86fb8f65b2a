"""Demo: all stages of a tiny model on rendered videos, measured against two baselines that cannot see time.

render ─> train full (in front) and, beside it, blind and single frame ─> ask all three ─> table, report, metrics
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from lightning_apollo.data.shapes.dataset import render_shapes
from lightning_apollo.evaluation.ask import ask_trained
from lightning_apollo.evaluation.predictions import Prediction, accuracy, results
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.readers.shapes import SHAPES, is_temporal, shapes
from lightning_apollo.evaluation.results import write_results
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.pages.report import (
    AccuracyRow,
    ClipView,
    Exchange,
    draw_losses,
    read_losses,
    view_clip,
    write_report,
)
from lightning_apollo.progress import bars
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe, save_recipe
from lightning_apollo.runs.fit import run_recipe
from lightning_apollo.runs.stage_folder import is_finished, stage_folder
from lightning_apollo.runs.survey import again_by_itself
from lightning_apollo.structures import VisualBatch

RECIPE = "videollama3-tiny"
TITLE_OF_MODEL = {"videollama3": "VideoLLaMA 3", "apollo": "Apollo"}  # by `compat`
MODELS = ("full", "single_frame", "blind")  # data.visuals of each
TITLES = {"full": "full", "single_frame": "single frame", "blind": "blind", "chance": "chance"}
NUM_WORDS = 3  # questions answered in words on the terminal
NUM_CLIPS = 6  # clips of the report


@dataclass(frozen=True)
class DemoScores:
    """Accuracy of the three models and chance, by kind of question, and their mean over the temporal kinds."""

    questions: dict[str, dict[str, float]]
    temporal: dict[str, float]


def run_demo(output: Path, name: str = RECIPE) -> None:
    """Trains what is not trained yet of a recipe for the built-in videos, asks the models and prints the table.

    Writes report.html, metrics.json and results.jsonl into `output`.
    """
    console = Console()
    recipes = {visuals: _recipe(name, output, visuals) for visuals in MODELS}
    if recipes["full"].data.shapes is None:
        raise RecipeError(f"{name} is not made for the built-in videos (data.shapes): the demo cannot ask it anything")
    _render(recipes["full"], console)
    _train(recipes, output, console)
    predictions = _ask_all(recipes, console)
    answers = [
        result
        for mode, answered in predictions.items()
        for result in results(answered, SHAPES, recipes["full"].name, mode)
    ]
    write_results(answers, output / "results.jsonl")
    scores = score(predictions)
    console.print(_table(scores))
    clips = _clips(recipes["full"], predictions["full"])
    console.print(f"[bold]{clips[0].title}[/bold]")
    for exchange in clips[0].exchanges[:NUM_WORDS]:
        console.print(f"  {exchange.question}  [bold]{exchange.answer}[/bold]  (it is {exchange.expected})")
    _write(recipes, scores, clips, output)
    console.print(f"report: {output / 'report.html'}   metrics: {output / 'metrics.json'}")


def score(predictions: dict[str, list[Prediction]]) -> DemoScores:
    """Scores from the predictions of the three models, all for the same questions."""
    questions = [prediction.question for prediction in predictions["full"]]
    by_model = {name: accuracy(answers) for name, answers in predictions.items()}
    by_kind: dict[str, dict[str, float]] = {}
    for kind in by_model["full"]:
        chance = fmean(1 / len(question.choices) for question in questions if question.category == kind)
        by_kind[kind] = {**{name: by_model[name][kind] for name in MODELS}, "chance": chance}
    temporal = {question.category for question in questions if is_temporal(question)}
    means = {name: fmean(by_kind[kind][name] for kind in by_kind if kind in temporal) for name in (*MODELS, "chance")}
    return DemoScores(by_kind, means)


def _recipe(name: str, output: Path, visuals: str) -> Recipe:
    return load_recipe(
        name,
        [
            f"output={output / visuals}",
            f"data.root={output / 'shapes'}",
            f"data.visuals={visuals}",
            f"trainer.progress_bar={str(visuals == 'full').lower()}",
            "trainer.threads=1",  # the baselines train on the other core
        ],
    )


def _render(recipe: Recipe, console: Console) -> None:
    assert recipe.data.shapes is not None
    with bars(console=console) as progress:
        task = progress.add_task("render videos", total=None)
        render_shapes(
            recipe.data.shapes,
            Path(recipe.data.root),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        if progress.tasks[task].total is None:  # it was rendered before
            progress.update(task, total=1, completed=1)


def _train(recipes: dict[str, Recipe], output: Path, console: Console) -> None:
    """The full model trains in front; the baselines one after the other on another core where there is one.

    What an earlier demo trained from other settings, or with an earlier version, is moved aside and trained again.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1)) as beside:
        baselines = {name: beside.submit(_train_quietly, name, recipes[name], output) for name in MODELS[1:]}
        try:
            again = again_by_itself(recipes["full"], "the demo", say)
            run_recipe(recipes["full"], resume=True, say=say, again=again)
            _wait(baselines, recipes, console)
        except BaseException:  # Ctrl-C reaches the baseline that trains by itself; what has not begun shall not begin
            beside.shutdown(wait=False, cancel_futures=True)
            raise


def _train_quietly(name: str, recipe: Recipe, output: Path) -> None:
    """Run `fit` with the same recipe and steps, one value changed, and what it says in a log."""
    if all(is_finished(recipe, stage) for stage in recipe.stages):
        return
    log = output / name / "fit.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    path = log.with_name("recipe.yaml")
    save_recipe(recipe, path)
    command = [sys.executable, "-m", "lightning_apollo", "fit", str(path), "--resume"]
    with log.open("w") as file:
        if again_by_itself(recipe, "the demo", lambda line: print(line, file=file, flush=True)) is not None:
            command.append("--again")
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"the {name} baseline failed with code {code}: {''.join(last)} (all of it: {log})")


def _wait(baselines: dict[str, Future[None]], recipes: dict[str, Recipe], console: Console) -> None:
    """A bar for each baseline, by the steps in its metrics, until all are trained; raises what went wrong with one."""
    with bars(console=console) as progress:
        tasks = {
            name: progress.add_task(f"train {TITLES[name]} baseline", total=num_steps(recipes[name]))
            for name in baselines
        }
        waiting = set(baselines.values())
        while waiting:
            _, waiting = wait(waiting, timeout=1.0)
            for name, baseline in baselines.items():
                steps = num_steps(recipes[name]) if baseline.done() else len(read_losses(_metrics(recipes[name])))
                progress.update(tasks[name], completed=steps)
        for baseline in baselines.values():
            baseline.result()


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of all stages."""
    return sum(stage.max_steps for stage in recipe.stages.values())


def _metrics(recipe: Recipe) -> list[Path]:
    """The metrics of the stages that have begun."""
    paths = (stage_folder(recipe, stage) / "metrics.csv" for stage in recipe.stages)
    return [path for path in paths if path.is_file()]


def _ask_all(recipes: dict[str, Recipe], console: Console) -> dict[str, list[Prediction]]:
    predictions: dict[str, list[Prediction]] = {}
    questions = list(shapes(Path(recipes["full"].data.root)))
    with bars(console=console) as progress:
        for name, recipe in recipes.items():
            task = progress.add_task(f"ask the {TITLES[name]} model", total=len(questions))
            trained = load_trained(recipe)
            answers = ask_trained(trained, questions, Path(recipe.data.root), advance=partial(progress.advance, task))
            predictions[name] = list(answers)
    return predictions


def _clips(recipe: Recipe, predictions: list[Prediction]) -> list[ClipView]:
    """The first held-out clips with everything that was asked about them."""
    trained = load_trained(recipe)
    by_video: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_video.setdefault(prediction.question.scene, []).append(prediction)
    clips = []
    for video, answers in list(by_video.items())[:NUM_CLIPS]:
        prompt = build_prompt(answers[0].question, trained.preparer, Path(recipe.data.root))
        exchanges = [Exchange(p.question.text, p.answer, p.question.answers[0]) for p in answers]
        with torch.inference_mode():
            _, reduction = trained.model.encode(VisualBatch.from_items(prompt.visuals, prompt.patch_size))
        clips.append(view_clip(video, prompt, reduction.keep_mask, exchanges))
    return clips


def _table(scores: DemoScores) -> Table:
    table = Table("question", title="accuracy on held-out clips")
    for title in TITLES.values():
        table.add_column(title, justify="right")
    for kind, by_model in scores.questions.items():
        table.add_row(kind.replace("_", " "), *(f"{by_model[name]:.2f}" for name in TITLES))
    table.add_section()
    table.add_row("temporal, mean", *(f"{scores.temporal[name]:.2f}" for name in TITLES), style="bold")
    return table


def _write(recipes: dict[str, Recipe], scores: DemoScores, clips: list[ClipView], output: Path) -> None:
    stages = recipes["full"].stages
    rows = [
        AccuracyRow(kind.replace("_", " "), tuple(by_model[name] for name in TITLES))
        for kind, by_model in scores.questions.items()
    ]
    mean = AccuracyRow("temporal, mean", tuple(scores.temporal[name] for name in TITLES), is_summary=True)
    curves = {TITLES[name]: read_losses(_metrics(recipe)) for name, recipe in recipes.items()}
    ends = list(accumulate(stage.max_steps for stage in stages.values()))
    write_report(
        output / "report.html",
        title=f"A tiny {TITLE_OF_MODEL[recipes['full'].compat]} on rendered videos",
        facts={
            "recipe": recipes["full"].name,
            "stages": ", ".join(f"{name} ({stage.max_steps} steps)" for name, stage in stages.items()),
            "baselines": "the same recipe and steps; single frame: one random frame as an image; blind: no media",
            "hardware": "CPU; no training of this project has run on a GPU yet",
        },
        clips=clips,
        score_head=list(TITLES.values()),
        scores=[*rows, mean],
        loss_svg=draw_losses(curves, ends[:-1]),
    )
    metrics = {"temporal": scores.temporal, "questions": scores.questions}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
