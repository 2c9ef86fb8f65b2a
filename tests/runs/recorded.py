"""Recorded defaults of all options and fingerprints of all shipped recipes.

python -m tests.runs.recorded      writes both again; from 0.2.0 on, only new lines may come of it
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lightning_apollo.recipe.conf import recipe_names
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.settings import BY_CONTENT, WITHOUT_EFFECT, first_default, settings_of

DEFAULTS = Path(__file__).with_name("defaults.json")
FINGERPRINTS = Path(__file__).with_name("fingerprints.json")


def sections(kind: Any = Recipe) -> Iterator[type]:
    """Every dataclass that a recipe is made of and that counts."""
    if not is_dataclass(kind):
        for part in get_args(kind):
            yield from sections(part)
        return
    assert isinstance(kind, type)
    yield kind
    for name, hint in get_type_hints(kind).items():
        if f"{kind.__name__}.{name}" not in WITHOUT_EFFECT:
            yield from sections(hint)


def counted_defaults() -> dict[str, Any]:
    """Class and field -> first default, of every option that counts; sections are recorded field by field."""
    found = {}
    for kind in sections():
        for field in fields(kind):
            name, default = f"{kind.__name__}.{field.name}", first_default(kind, field)
            if name not in WITHOUT_EFFECT and name not in BY_CONTENT and default is not MISSING:
                found[name] = "its own defaults" if is_dataclass(default) else default
    return found


def recipe_fingerprints() -> dict[str, str]:
    """Recipe and stage -> hash of the settings that its weights depend on."""
    prints = {}
    for name in recipe_names():
        recipe = load_recipe(name)
        for stage in recipe.stages:
            settings = json.dumps(settings_of(recipe, stage), sort_keys=True)
            prints[f"{name}/{stage}"] = hashlib.sha256(settings.encode()).hexdigest()
    return prints


if __name__ == "__main__":
    DEFAULTS.write_text(json.dumps(counted_defaults(), indent=2, sort_keys=True) + "\n")
    FINGERPRINTS.write_text(json.dumps(recipe_fingerprints(), indent=2) + "\n")
