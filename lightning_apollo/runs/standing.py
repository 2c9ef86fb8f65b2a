"""Finished stages of a recipe, and what lies where one is to be trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.config import Recipe, RecipeError
from lightning_apollo.data.shapes import ShapesError
from lightning_apollo.errors import UserError
from lightning_apollo.models.weight_files import ADAPTER
from lightning_apollo.runs.fingerprint import Origin, differences, read_origin
from lightning_apollo.stage_state import CHECKPOINTS, checkpoint_to_go_on_from, stage_folder
from lightning_apollo.training.callbacks.checkpoint import latest_checkpoint
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS

_MAX_SHOWN = 3  # differences in one line


@dataclass(frozen=True)
class Standing:
    """One stage: finished by this recipe, or holding weights of another training, or neither."""

    is_finished: bool = False
    remark: str = ""  # of a finished stage, why it could not be compared with the recipe
    other: str = ""  # why its weights are another training's


@dataclass(frozen=True)
class Obstacle:
    """Stage that cannot be trained into its folder as it is."""

    stage: str
    line: str  # for the user: why, and the ways on


@dataclass(frozen=True)
class Survey:
    """Stages that are finished, each with its remark, up to the first obstacle."""

    finished: Mapping[str, str]
    obstacle: Obstacle | None = None


def is_finished(recipe: Recipe, name: str) -> bool:
    """True where the stage's weights are what this recipe would train, from the data and start weights of now."""
    return standing(recipe, name).is_finished


def standing(recipe: Recipe, name: str) -> Standing:
    """Compares what the stage's weights were trained from with what they would be trained from now.

    Weights whose data or start weights are gone since count as finished, with a remark: there is nothing to compare.
    """
    folder = stage_folder(recipe, name)
    if not any((folder / file).is_file() for file in (WEIGHTS, ADAPTER)):
        return Standing()
    if not (folder / DONE).is_file():
        if latest_checkpoint(folder / CHECKPOINTS) is not None:  # ended while it wrote them: --resume writes them again
            return Standing()
        return Standing(other=f"there is no {DONE} to say from what they were trained")
    if not (folder / WEIGHTS).is_file():
        return Standing(other=f"{WEIGHTS} is not there, {ADAPTER} is")
    try:
        before = Origin.from_json(json.loads((folder / DONE).read_text())["origin"])
    except KeyError:
        return Standing(other="trained by an earlier version, which did not note from what")
    except (ValueError, TypeError, AttributeError):
        return Standing(other=f"{DONE} cannot be read")
    try:
        now = read_origin(recipe, name)
    except ShapesError:
        raise
    except UserError as error:
        return Standing(is_finished=True, remark=f"not compared with the recipe: {error}")
    changed = differences(before, now)
    return Standing(other=_first(changed)) if changed else Standing(is_finished=True)


def survey(recipe: Recipe, names: Sequence[str], resume: bool) -> Survey:
    """What of the stages `names` is finished, and the first that must not be trained over what lies in its folder."""
    finished: dict[str, str] = {}
    stages = list(recipe.stages)
    for name in names:
        found = standing(recipe, name)
        before = (
            stages[stages.index(name) - 1] if recipe.stages[name].init == "previous" and name != stages[0] else None
        )
        is_open = before in names and before not in finished  # the stage before it will be trained
        if (found.is_finished or found.other) and is_open:
            found = Standing(other=f"{before}, whose weights it starts from, is not finished")
        if found.other:
            return Survey(finished, Obstacle(name, refusal(recipe, name, found.other)))
        if found.is_finished:
            finished[name] = found.remark
        elif not (is_open and resume) and (line := _refused_checkpoint(recipe, name, resume)):
            return Survey(finished, Obstacle(name, line))
    return Survey(finished)


def first_to_train(recipe: Recipe, names: Sequence[str], again: str | None, resume: bool) -> tuple[Survey, str | None]:
    """The finished stages that stay, and the one from which on all are moved aside.

    With `again` "", that is the first stage that is not finished, or the very first where all are. RecipeError where
    something lies in the way of the stages before it.
    """
    if again:
        found, first = survey(recipe, names[: names.index(again)], resume), again
    else:
        found = survey(recipe, names, resume)
        first = None if again is None else next((name for name in names if name not in found.finished), names[0])
        if first is not None:
            kept = dict(list(found.finished.items())[: names.index(first)])
            return Survey(kept), first
    if found.obstacle is not None:
        raise RecipeError(found.obstacle.line)
    return found, first


def again_by_itself(recipe: Recipe, who: str, say: Callable[[str], None]) -> str | None:
    """`again` of `run_recipe` for commands that train anew whatever is in their way; `say` is told why and that `who` does."""
    obstacle = survey(recipe, list(recipe.stages), resume=True).obstacle
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
    """Why the stage may not begin, or resume, where a checkpoint lies; empty where it may."""
    try:
        checkpoint_to_go_on_from(recipe, name, resume)
    except RecipeError as error:
        return str(error)
    return ""


def _first(phrases: Sequence[str]) -> str:
    return "; ".join(phrases[:_MAX_SHOWN]) + "; ..." * (len(phrases) > _MAX_SHOWN)
