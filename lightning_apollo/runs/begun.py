"""Record beside a stage's checkpoints of its settings and data, compared by `--resume`."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_apollo.files import write_atomically
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.fingerprint import Origin, differences, read_origin

BEGUN = "begun.json"
_MAX_SHOWN = 3  # differences in one line


def write_begun(folder: Path, origin: Origin) -> None:
    """Note what the stage begins with in the folder of its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = {"origin": origin.to_json(), "fingerprint": origin.fingerprint}
    with write_atomically(folder / BEGUN) as partial:
        partial.write_text(json.dumps(begun, indent=2) + "\n")


def require_same_training(recipe: Recipe, name: str, folder: Path) -> None:
    """RecipeError where the stage would resume with what makes another training than that which was begun."""
    again = f"begin again with --again={name}, which moves the stage's folder aside"
    begun = json.loads((folder / BEGUN).read_text()) if (folder / BEGUN).is_file() else {}
    if "origin" not in begun:
        raise RecipeError(
            f"{folder} has checkpoints of an earlier version, which did not note what the stage was begun with: resume it "
            f"with that version, or {again}"
        )
    changed = differences(Origin.from_json(begun["origin"]), read_origin(recipe, name))
    if changed:
        shown = ", ".join(changed[:_MAX_SHOWN]) + " ..." * (len(changed) > _MAX_SHOWN)
        raise RecipeError(f"stage {name} was begun with other settings: {shown}; put back what it had, or {again}")
