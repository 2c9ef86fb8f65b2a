"""Scores of a study as numbers: variants × sizes × data sizes × seeds, NaN where a run is missing.

V variants · S LLM sizes, smallest first · D data sizes, smallest first · K seeds
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.errors import RecipeError
from lightning_apollo.recipe.layers import short_path

DESIGN, LLM, SCORE = "design", "llm", "score"  # columns of a table in the form of Apollo's Tables 14 and 15

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}

Floats = NDArray[np.float64]


class StudyError(RecipeError):
    """A study or a table of scores that cannot be used; the message is one line."""


@dataclass(frozen=True)
class RunScore:
    """Score of one run."""

    variant: str
    size: str
    data: str
    seed: int
    score: float


@dataclass(frozen=True)
class StudyTable:
    """Scores of runs and what is compared: `sizes` and `data` ascend; `factors` maps factor, then variant, to a level."""

    scores: tuple[RunScore, ...]
    variants: tuple[str, ...]
    sizes: Mapping[str, float]  # name -> parameters of the LLM
    data: Mapping[str, float]  # name -> training samples
    factors: Mapping[str, Mapping[str, str]]

    def __post_init__(self) -> None:
        for kind, numbers in (("size", self.sizes), ("data size", self.data)):
            if list(numbers.values()) != sorted(set(numbers.values())):
                each = ", ".join(f"{name} {number:,.0f}" for name, number in numbers.items())
                raise StudyError(f"every {kind} must be larger than the one before it, these are {each}")

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.scores}))

    @cached_property
    def grid(self) -> Floats:
        """(V, S, D, K) every score."""
        axes = (self.variants, tuple(self.sizes), tuple(self.data), self.seeds)
        places = [{name: place for place, name in enumerate(names)} for names in axes]
        grid = np.full([len(names) for names in axes], np.nan)
        for run in self.scores:
            key = (run.variant, run.size, run.data, run.seed)
            grid[tuple(place[name] for place, name in zip(places, key, strict=True))] = run.score
        return grid

    @cached_property
    def means(self) -> Floats:
        """(V, S, D) means over the seeds that are there."""
        return mean_of_known(self.grid, axis=-1)

    def levels(self, factor: str | None) -> tuple[str, ...]:
        """(V,) the level that each variant has; without a factor each variant is its own."""
        return self.variants if factor is None else tuple(self.factors[factor][name] for name in self.variants)


def mean_of_known(values: Floats, axis: int) -> Floats:
    """The mean of what is not NaN along an axis; NaN where nothing is known."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def read_table(path: Path) -> StudyTable:
    """The table of a CSV with the columns design, llm and score and at least one more factor, for example mixture.

    One row a model. `llm` is a number of parameters such as 0.5B or 64K; a variant is one choice of all factors. StudyError
    names the line that cannot be used.
    """
    label = short_path(path)
    if not path.is_file():
        raise StudyError(f"{label}: no such file")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = [name for name in reader.fieldnames or [] if name not in (LLM, SCORE)]
        missing = {DESIGN, LLM, SCORE} - set(reader.fieldnames or [])
        if missing or len(names) < 2:
            raise StudyError(
                f"{label}: the columns are design, llm, score and one or more factors such as mixture, "
                f"not {', '.join(reader.fieldnames or ['none'])}"
            )
        rows = [(number, row) for number, row in enumerate(reader, start=2)]
    if not rows:
        raise StudyError(f"{label}: has no rows")
    scores = [_run_score(row, names, f"{label}, line {number}") for number, row in rows]
    _check_unique(scores, rows, label)
    sizes = {run.size: parse_size(run.size, label) for run in scores}
    variants = {run.variant: row for run, (_, row) in zip(scores, rows, strict=True)}
    return StudyTable(
        scores=tuple(scores),
        variants=tuple(variants),
        sizes=dict(sorted(sizes.items(), key=lambda item: item[1])),
        data={"": 1.0},
        factors={name: {variant: row[name] for variant, row in variants.items()} for name in names},
    )


def parse_size(text: str, label: str) -> float:
    """The number of parameters that "0.5B", "64M" or "64K" stands for."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise StudyError(f"{label}: llm: {text!r} is no number of parameters; write it like 0.5B or 64M")
    return float(match[1]) * _UNITS[match[2]]


def _run_score(row: Mapping[str, str | None], names: Sequence[str], label: str) -> RunScore:
    if None in row or any(row[name] in (None, "") for name in (*names, LLM, SCORE)):
        raise StudyError(f"{label}: every column needs one value")
    try:
        score = float(str(row[SCORE]))
    except ValueError:
        score = float("nan")
    if not np.isfinite(score):
        raise StudyError(f"{label}: score: {row[SCORE]!r} is not a number")
    return RunScore("/".join(str(row[name]) for name in names), str(row[LLM]), "", 0, score)


def _check_unique(scores: Sequence[RunScore], rows: Sequence[tuple[int, object]], label: str) -> None:
    first: dict[tuple[str, str], int] = {}
    for run, (number, _) in zip(scores, rows, strict=True):
        earlier = first.setdefault((run.variant, run.size), number)
        if earlier != number:
            raise StudyError(f"{label}, line {number}: {run.variant} with {run.size} stands in line {earlier} already")
