"""Terminal report of `lightning-apollo new`: findings, choices and next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_apollo.data.storage.address import EmbeddedAddress
from lightning_apollo.new_task.new import STAGE, NewRecipe, Task
from lightning_apollo.new_task.survey import Survey
from lightning_apollo.training.callbacks.export import WEIGHTS

_KINDS = {"text": "text alone", "image": "one image", "multi_image": "several images", "video": "video"}
_START = ("DAMO-NLP-SG/VideoLLaMA3-2B", "videollama3-2b.safetensors")  # what the templates start from


def new_task_tables(new: NewRecipe) -> RenderableType:
    """Tables of the data and of the recipe, and the broken rows."""
    return Group(_seen(new.survey), _chosen(new), *_broken(new))


def next_commands(task: Task, new: NewRecipe) -> dict[str, str]:
    """Next commands by purpose, in this order."""
    stage, recipe = f"{new.recipe.output}/{STAGE}", str(new.path)
    example = new.survey.example
    media = [word for part in example.media for word in (f"--{part.modality}", str(Path(task.root) / part.path))]
    commands: dict[str, list[str]] = {}
    if not Path(new.recipe.stages[STAGE].init).exists():
        commands["fetch the weights to start from"] = ["import", *_START, "--recipe", "videollama3-2b"]
    commands |= {
        "look at a sample as the model gets it": ["inspect", recipe, "--sample", "0"],
        "see what is trained, and how much memory that takes": ["explain", recipe],
        **_training(Path(stage), recipe),
        "ask": ["generate", stage, *media, "--prompt", example.prompt],
    }
    if any(isinstance(part.path, EmbeddedAddress) for part in example.media):  # no file that `generate` could be given
        del commands["ask"]
    if new.template != "video":  # whose reducer transformers does not have
        exported = f"{new.recipe.output}/exported"
        commands["make a model of it that plain transformers loads"] = ["export", stage, exported, "--verify"]
    return {what: f"lightning-apollo {shlex.join(words)}" for what, words in commands.items()}


def _training(stage: Path, recipe: str) -> dict[str, list[str]]:
    """The command that trains, which must ask for it where a stage of that name was trained before."""
    if not (stage / WEIGHTS).is_file():
        return {"train": ["fit", recipe]}
    return {f"train; the weights that lie in {stage} are moved aside to {stage}.1": ["fit", recipe, "--again"]}


def _seen(survey: Survey) -> Table:
    table = Table(title="what the data hold", show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    kinds = ", ".join(f"{number:,} with {_KINDS[kind]}" for kind, number in survey.kinds.items() if number)
    table.add_row("rows", f"{survey.num_usable:,}: {kinds}")
    table.add_row("files", f"{survey.num_videos:,} videos, {survey.num_images:,} images")
    if len(survey.shown_seconds):
        table.add_row("shown of videos", _spread(survey.shown_seconds, "s"))
    if len(survey.sizes):
        widths, heights = survey.sizes.T
        table.add_row("width", _spread(widths, "pixels"))
        table.add_row("height", _spread(heights, "pixels"))
    if survey.index.text_identity:
        usable = ~survey.index.is_broken()
        table.add_row("text of a row", _spread(survey.index.sample_column("num_text_tokens")[usable], "tokens"))
    if survey.share_of_spans:
        table.add_row("answers", f"{survey.share_of_spans:.0%} about videos are time spans")
    if survey.num_broken or survey.num_broken_files:
        style = "red"
        table.add_row(
            Text("broken", style), Text(f"{survey.num_broken:,} rows, {survey.num_broken_files:,} files", style)
        )
    return table


def _spread(values: np.ndarray, unit: str) -> str:
    least, middle, high, most = np.quantile(values, (0, 0.5, 0.95, 1), method="higher")
    if least == most:
        return f"{_number(least)} {unit}"
    return f"{_number(least)} to {_number(most)} {unit}, half up to {_number(middle)}, 95 % up to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _chosen(new: NewRecipe) -> Table:
    chosen, why = new.chosen, new.chosen.reasons
    table = Table("setting", "value", "why", title=f"\nwhat {new.path} says", title_justify="left")
    table.columns[1].justify = "right"
    table.columns[1].no_wrap = True
    table.add_row("template", new.template, new.template_reason)
    if len(new.survey.shown_seconds):
        frames = f"{chosen.sampling.fps:g} a second, {chosen.sampling.max_frames} at most"
        table.add_row("frames", frames, why["sampling"])
    table.add_row("token_budget", f"{chosen.budget.token_budget:,}", why["token_budget"])
    table.add_row("max_length", f"{chosen.budget.max_length:,}", why["max_length"])
    table.add_row("epochs", f"{chosen.epochs:,}", why["steps"])
    table.add_row("micro batch", f"{chosen.micro_batch_size:,}", "samples in memory at one time")
    return table


def _broken(new: NewRecipe) -> Iterator[RenderableType]:
    survey = new.survey
    if survey.num_broken:
        yield Text(f"\n{survey.num_broken:,} rows cannot be used:", "red")
        for row in survey.broken:
            yield Text(f"  {row.manifest}, row {row.row}: {f'{row.path}: ' if row.path else ''}{row.reason}")
        if survey.num_broken > len(survey.broken):
            yield Text(f"  and {survey.num_broken - len(survey.broken):,} more: lightning-apollo data scan lists them")
        share = new.recipe.data.max_error_share
        yield Text(f"  Mend or remove them: a run stops at a row that is wrong, and above {share:.0%} of bad files.")
    if new.chosen.num_unfit:
        yield Text(f"\n{new.chosen.num_unfit:,} rows do not fit the budget of the model and will be skipped", "yellow")
