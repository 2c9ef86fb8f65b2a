"""Last lines of a run: location of the model and commands to try next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich import get_console

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS

_OPTIONS = {  # suffix -> option of `generate`
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi"), "--video"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "--image"),
}
_MAX_LOOKED_AT = 1000  # files below the media roots


def say_next_steps(recipe: Recipe, stage: str | None, words: Sequence[str]) -> None:
    """Print `next_steps`, on rank 0."""
    if rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]  # set by Lightning
        for line in next_steps(recipe, stage, words, program_name()):
            get_console().print(line, markup=False, highlight=False, soft_wrap=True)


def next_steps(recipe: Recipe, stage: str | None, words: Sequence[str], program: str) -> list[str]:
    """Lines about the weights of `stage`, or of the last one; none where they are not there.

    words: recipe and overrides as they were given to `fit`; program: the command line's own name.
    """
    names = list(recipe.stages)
    name = stage or names[-1]
    folder = stage_folder(recipe, name)
    if not (folder / WEIGHTS).is_file():
        return []
    lines = [f"model: {folder / WEIGHTS}"]
    if name != names[-1]:
        following = names[names.index(name) + 1]
        command = f"{program} {shlex.join(['fit', *words, '--stage', following])}"
        is_launched = "WORLD_SIZE" in os.environ or "SLURM_NTASKS" in os.environ
        lines.append(f"next stage: {f'the same command with --stage {following}' if is_launched else command}")
    asked = ["generate", str(folder), *_media(recipe, name), "--prompt", "What happens?"]
    return [*lines, f"ask it: {program} {shlex.join(asked)}"]


def program_name() -> str:
    """Command that started this program, for a shell."""
    started = Path(sys.argv[0])
    if started.suffix == ".py":
        return f"{shlex.quote(sys.executable)} -m lightning_apollo"
    is_on_path = shutil.which(started.name) == str(started)
    return started.name if is_on_path else shlex.quote(str(started))


def _media(recipe: Recipe, stage: str) -> list[str]:
    """The option and the path of a file that the stage may have seen; a placeholder where none is found at once."""
    roots = [recipe.data.sources[source].root for source, passes in recipe.stages[stage].mixture.items() if passes]
    if recipe.data.shapes is not None:
        roots = [recipe.data.root]
    for path in islice(_files(roots), _MAX_LOOKED_AT):
        if option := _OPTIONS.get(path.suffix.lower()):
            return [option, str(path)]
    return ["--video", "VIDEO.mp4"]


def _files(roots: Sequence[str]) -> Iterator[Path]:
    for root in dict.fromkeys(roots):
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder) / name for name in sorted(files))
