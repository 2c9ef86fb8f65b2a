"""Checks of the arguments of `evaluate run`, before anything heavy is imported."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from lightning_apollo.errors import UserError, suggestion
from lightning_apollo.recipe.early_checks import require_files, require_manifests

METRICS = ("exact", "choice", "span", "f1", "number", "relaxed")  # of own rows, as --metric names them


def require_asked(data: Sequence[str], benchmark: str | None, root: str | None, metric: str | None) -> str:
    """The folder of a benchmark's files, or the root of own rows' media; UserError for options that do not go together."""
    if benchmark is not None:
        for option, value in (("--root", root), ("--metric", metric)):
            if value is not None:
                raise UserError(f"{option} is for own rows: leave it out, or leave --benchmark out")
        if len(data) > 1:
            raise UserError(f"--benchmark {benchmark} has one folder of files: give --data once")
        require_files(data)
        return data[0]
    if metric is not None and metric not in METRICS:
        raise UserError(f"there is no metric {metric}{suggestion(metric, METRICS)}")
    for name in data:
        if Path(name).is_dir():
            raise UserError(f"{name} is a folder: name its --benchmark, or a file of rows")
    place = root or str(Path(data[0]).parent)
    if "://" not in place and ".tar" not in place:
        require_files([place])
    require_manifests([name for name in data if not glob.has_magic(name)], place)
    return place
