"""Paths of the recipes. Imports nothing heavy: shell completion and `--help` read it."""

import sysconfig
from functools import cache
from pathlib import Path

from lightning_apollo.errors import RecipeError, suggestion


@cache
def conf_folder() -> Path:
    """The folder with model/, data/, stage/ and recipe/: beside the package in a checkout, under share/ in a wheel."""
    candidates = (
        Path(__file__).resolve().parents[2] / "conf",
        Path(sysconfig.get_path("data")) / "share" / "lightning_apollo" / "conf",
    )
    for folder in candidates:
        if (folder / "recipe").is_dir():
            return folder
    raise FileNotFoundError(f"no conf/recipe in {' or '.join(map(str, candidates))}: reinstall lightning-apollo")


def recipe_names() -> list[str]:
    """Names that `fit` and `explain` take, sorted."""
    return sorted(path.stem for path in (conf_folder() / "recipe").glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """The file of a recipe that is named, or given by its path. RecipeError where there is none."""
    return _file_of(name, "recipe", recipe_names())


def study_file(name: str) -> Path:
    """The file of a study that is named, or given by its path. RecipeError where there is none."""
    return _file_of(name, "study", study_names())


def study_names() -> list[str]:
    """Names that `study` takes, sorted."""
    return sorted(path.stem for path in (conf_folder() / "study").glob("*.yaml"))


def _file_of(name: str, kind: str, known: list[str]) -> Path:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in known:
            raise RecipeError(f"{name}: neither a .yaml file nor a {kind}'s name{suggestion(name, known)}")
        return conf_folder() / kind / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"{name}: no such file")
    return path
