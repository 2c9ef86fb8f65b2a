"""Finished stages of a recipe, and obstacles in the folder of the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.models.checkpoint.files import ADAPTER
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.stage_folder import Standing, has_weights, resume_checkpoint, stage_folder, standing
from lightning_apollo.training.callbacks.export import WEIGHTS


@dataclass(frozen=True)
class Obstacle:
    """Stage that cannot be trained into its folder as it is."""

    stage: str
    line: str  # for the user: why, and the ways on


@dataclass(frozen=True)
class FinishedStages:
    """Stages that are finished, each with its remark, up to the first obstacle."""

    finished: Mapping[str, str]
    obstacle: Obstacle | None = None


def find_finished_stages(recipe: Recipe, names: Sequence[str], resume: bool) -> FinishedStages:
    """Finished stages among the first ones of the recipe, `names`, and the first that must not be trained into its folder."""
    finished: dict[str, str] = {}
    for before, name in zip((None, *names), names, strict=False):
        is_open = before is not None and before not in finished and recipe.stages[name].init == "previous"
        if not is_open:
            found = standing(recipe, name)
        elif has_weights(stage_folder(recipe, name)):
            found = Standing(other=f"{before}, whose weights it starts from, is not finished")
        else:
            found = Standing()
        if found.other:
            return FinishedStages(finished, Obstacle(name, refusal(recipe, name, found.other)))
        if found.is_finished:
            finished[name] = found.remark
        elif not (is_open and resume) and (line := _refused_checkpoint(recipe, name, resume)):
            return FinishedStages(finished, Obstacle(name, line))
    return FinishedStages(finished)


def first_to_train(recipe: Recipe, again: str | None, resume: bool) -> tuple[FinishedStages, str | None]:
    """The finished stages that stay, and the one from which on all are moved aside, if any.

    With `again` "", that is the first stage that is not finished, or the very first where all are. RecipeError where
    something lies in the way of the stages before it.
    """
    names = list(recipe.stages)
    found = find_finished_stages(recipe, names[: names.index(again)] if again else names, resume)
    if again == "":
        first = next((name for name in names if name not in found.finished), names[0])
        return FinishedStages({name: found.finished[name] for name in names[: names.index(first)]}), first
    if found.obstacle is not None:
        raise RecipeError(found.obstacle.line)
    return found, again


def again_by_itself(recipe: Recipe, who: str, say: Callable[[str], None]) -> str | None:
    """`again` of `run_recipe` for commands that train anew whatever is in their way; `say` is told why and that `who` does."""
    obstacle = find_finished_stages(recipe, list(recipe.stages), resume=True).obstacle
    if obstacle is None:
        return None
    say(f"{obstacle.line}; {who} does the latter")
    return ""


def finished_line(recipe: Recipe, name: str, remark: str) -> str:
    """The line about a finished stage."""
    note = f" ({remark})" if remark else ""
    return f"stage {name} is finished and not trained again: {stage_folder(recipe, name) / WEIGHTS}{note}"


def refusal(recipe: Recipe, name: str, why: str) -> str:
    """The line about weights of another training: what differs, where they lie, the ways on."""
    folder: Path = stage_folder(recipe, name)
    weights = next(folder / file for file in (WEIGHTS, ADAPTER) if (folder / file).is_file())
    return (
        f"stage {name} has weights of another training ({why}): they stay in {weights}. Train into another folder with "
        f"output=, or train this stage again with --again={name}, which moves {folder} and those of all stages after it aside"
    )


def _refused_checkpoint(recipe: Recipe, name: str, resume: bool) -> str:
    """Reason for which the stage may not begin, or resume, where a checkpoint lies; empty where it may."""
    try:
        resume_checkpoint(recipe, name, resume)
    except RecipeError as error:
        return str(error)
    return ""
