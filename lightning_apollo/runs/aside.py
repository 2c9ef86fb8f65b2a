"""Stage folders moved aside: STAGE becomes STAGE.1. Nothing is removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.lock import sole_writer
from lightning_apollo.runs.stage_folder import stage_folder


def move_aside(recipe: Recipe, first: str, say: Callable[[str], None]) -> None:
    """Rename the folders of a stage and of all after it, the last one first, all to the same number that is free.

    The caller holds the folder of `first`; those of the others are held here. RecipeError where a run writes into one.
    """
    stages = list(recipe.stages)
    later = stages[stages.index(first) + 1 :]
    with ExitStack() as locks:
        for name in later:
            locks.enter_context(sole_writer(stage_folder(recipe, name), say))
        folders = [folder for name in (first, *later) if (folder := stage_folder(recipe, name)).exists()]
        number = next(
            n for n in count(1) if not any(folder.with_name(f"{folder.name}.{n}").exists() for folder in folders)
        )
        for folder in reversed(folders):  # a kill between two leaves no stage behind one that is gone
            aside = folder.with_name(f"{folder.name}.{number}")
            folder.rename(aside)
            say(f"{folder} is now {aside}")
