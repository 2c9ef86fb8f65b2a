"""Where the recipes are. Imports nothing heavy: shell completion and `--help` read it."""

import sysconfig
from functools import cache
from pathlib import Path


@cache
def conf_folder() -> Path:
    """The folder with model/, data/, stage/ and recipe/: beside the package in a checkout, under share/ in a wheel."""
    candidates = (
        Path(__file__).resolve().parent.parent / "conf",
        Path(sysconfig.get_path("data")) / "share" / "lightning_apollo" / "conf",
    )
    for folder in candidates:
        if (folder / "recipe").is_dir():
            return folder
    raise FileNotFoundError(f"no conf/recipe in {' or '.join(map(str, candidates))}: reinstall lightning-apollo")


def recipe_names() -> list[str]:
    """Names that `fit` and `explain` take, sorted."""
    return sorted(path.stem for path in (conf_folder() / "recipe").glob("*.yaml"))


def study_names() -> list[str]:
    """Names that `study` takes, sorted."""
    return sorted(path.stem for path in (conf_folder() / "study").glob("*.yaml"))
