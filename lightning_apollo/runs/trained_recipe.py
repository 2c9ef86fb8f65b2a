"""Recipe of a finished stage, compared with the present one."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs.fingerprint import Origin, differences
from lightning_apollo.runs.settings import places_of, settings_of

RECIPE = "recipe.yaml"  # in a stage's folder
_MAX_SHOWN = 3  # differences in one line


def trained_recipe(output: Path, stage: str, words: Sequence[str] = ()) -> Recipe | None:
    """The recipe in the folder of a stage, with `key=value` words on top; None where there is none.

    Its output is the folder where the stage lies now, whatever it was called while it trained.
    """
    file = output / stage / RECIPE
    if not file.is_file():
        return None
    recipe = replace(load_recipe(file, words), output=str(output))
    if stage not in recipe.stages:
        raise RecipeError(f"{file}: no stage {stage}: it has {', '.join(recipe.stages)}")
    return recipe


def changes_since(output: Path, stage: str, now: Recipe, ignored: Collection[str] = ()) -> str | None:
    """Difference of a recipe from the one in the stage's folder, in the words of a line; None where there is none.

    Only what changes weights or answers counts, under keys that are not `ignored` (nor below one that is). Paths are
    compared as what they lead to, and those below the output as they lie in it.
    """
    file = output / stage / RECIPE
    if not file.is_file():
        return None
    before = load_recipe(file)
    if stage not in before.stages:
        return f"there is no stage {stage} in it"
    settings = [
        {key: value for key, value in settings_of(recipe, stage).items() if not _is_below(key, ignored)}
        for recipe in (before, now)
    ]
    changed = differences(*(Origin(own, {}, None) for own in settings)) + _other_places(before, now, stage, ignored)
    if not changed:
        return None
    rest = f" and {len(changed) - _MAX_SHOWN} more" if len(changed) > _MAX_SHOWN else ""
    return ", ".join(changed[:_MAX_SHOWN]) + rest


def _other_places(before: Recipe, now: Recipe, stage: str, ignored: Collection[str]) -> list[str]:
    """Data and start weights that are others by their paths; their content is not read."""
    places, outputs = [places_of(recipe, stage) for recipe in (before, now)], [before.output, now.output]
    sources = [
        {name: [_place(path, outputs) for path in paths] for name, paths in own["sources"].items()} for own in places
    ]
    changed = [
        f"data of source {name} lie elsewhere"
        for name in sources[0]
        if name in sources[1] and sources[0][name] != sources[1][name] and not _is_below("data", ignored)
    ]
    starts = [_place(own["init"], outputs) for own in places]
    key = f"stages.{stage}.init"
    if starts[0] != starts[1] and not _is_below(key, ignored):
        changed.append(f"{key} was {places[0]['init']} and is {places[1]['init']}")
    return changed


def _place(path: str, outputs: Sequence[str]) -> str:
    """A path without its spelling; relative where it lies below an output, which may have been moved."""
    whole = Path(os.path.realpath(path))
    above = (real for real in map(os.path.realpath, outputs) if whole.is_relative_to(real))
    return str(whole.relative_to(next(above, "/")))


def _is_below(key: str, ignored: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in ignored)
