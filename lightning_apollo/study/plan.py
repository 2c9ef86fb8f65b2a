"""Study files, and the runs that one stands for: every design variant × LLM size × data size × seed.

A study is a YAML file like a recipe: unknown keys are errors, and a `base:` list is merged below it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from pathlib import Path

from lightning_apollo.data.shapes.scene import QUESTIONS
from lightning_apollo.errors import suggestion
from lightning_apollo.recipe.conf import conf_folder, study_file
from lightning_apollo.recipe.layers import build, read_layers, short_path, with_defaults
from lightning_apollo.recipe.schema import Recipe, load_recipes
from lightning_apollo.runs.settings import places_of, settings_of
from lightning_apollo.study.analysis import THRESHOLD
from lightning_apollo.study.table import StudyError

TEMPORAL = "temporal"  # the score that is the mean over the kinds of question that need more than one frame
SET_BY_THE_STUDY = ("output", "seed", "trainer.progress_bar")


@dataclass(frozen=True)
class Variant:
    """A design: what it sets in the recipe, and its level of every factor."""

    set: list[str] = field(default_factory=list)  # key=value words
    factors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """An LLM size."""

    set: list[str] = field(default_factory=list)
    parameters: int | None = None  # of the LLM; None: counted

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise ValueError(f"parameters is a number above 0, not {self.parameters}")


@dataclass(frozen=True)
class DataSize:
    """An amount of training data."""

    samples: int  # what the reports and plots call it
    set: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples is a number above 0, not {self.samples}")


@dataclass(frozen=True)
class Study:
    """Variants of one recipe at several LLM and data sizes, measured on the built-in shapes questions."""

    name: str
    recipe: str  # a recipe's name or file
    variants: dict[str, Variant]
    sizes: dict[str, Size]  # from the smallest to the largest
    data: dict[str, DataSize]  # from the smallest to the largest
    output: str = "runs/study/${name}"  # one folder a run below it
    seeds: list[int] = field(default_factory=lambda: [0])
    score: str = TEMPORAL  # that, or a kind of question
    threshold: float = THRESHOLD  # Kendall's tau from which on a smaller size ranks like the largest

    def __post_init__(self) -> None:
        for part in ("variants", "sizes", "data", "seeds"):
            if not getattr(self, part):
                raise ValueError(f"{part}: at least one is needed")
        for name in (*self.variants, *self.sizes, *self.data):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"{name}: the name is part of a folder's: write letters, digits, - and _")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are different numbers from 0 on, not {list(self.seeds)}")
        if self.score not in (TEMPORAL, *QUESTIONS):
            raise ValueError(f"score: {self.score}: no such kind of question{suggestion(self.score, self.scores)}")
        if not -1 < self.threshold <= 1:
            raise ValueError(f"threshold is a Kendall's tau above -1 and up to 1, not {self.threshold:g}")
        _check_ascends("data", {name: data.samples for name, data in self.data.items()})
        self._check_factors()
        self._check_words()

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores of every run."""
        return (TEMPORAL, *QUESTIONS)

    def _check_factors(self) -> None:
        first, *others = self.variants
        for name in others:
            if set(self.variants[name].factors) != set(self.variants[first].factors):
                raise ValueError(
                    f"variants.{name}.factors: every variant names the same factors as {first}: "
                    f"{', '.join(self.variants[first].factors) or 'none'}"
                )

    def _check_words(self) -> None:
        """No run may set a value twice: the later word would silently win."""
        parts = {part: dict(_words(getattr(self, part))) for part in ("variants", "sizes", "data")}
        for part, words in parts.items():
            for place, key in ((place, key) for place, keys in words.items() for key in keys):
                if any(_overlap(key, own) for own in SET_BY_THE_STUDY):
                    raise ValueError(f"{part}.{place}.set: {key}: the study sets this itself")
        for (part, words), (other, others) in combinations(parts.items(), 2):
            for (place, keys), (where, rivals) in product(words.items(), others.items()):
                for key, rival in product(keys, rivals):
                    if _overlap(key, rival):
                        raise ValueError(f"{part}.{place}.set: {key}: {other}.{where} sets it too")


@dataclass(frozen=True)
class StudyRun:
    """One training and its evaluation."""

    variant: str
    size: str
    data: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return run_name(self.variant, self.size, self.data, self.seed)

    @property
    def folder(self) -> Path:
        return Path(self.recipe.output)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all settings that the run's scores depend on; not of how fast it runs or where it lies."""
        recipe = self.recipe
        stages = [[settings_of(recipe, stage), places_of(recipe, stage)] for stage in recipe.stages]
        held_out = recipe.data.shapes and recipe.data.shapes.num_held_out  # whose questions are the score
        return hashlib.sha256(json.dumps([stages, held_out], sort_keys=True).encode()).hexdigest()


def load_study(name_or_path: str) -> Study:
    """The study of that name in conf/study, or of that file; RecipeError in one line for what is wrong in it."""
    path = study_file(name_or_path)
    return build(with_defaults(read_layers(path, Study, conf_folder()), Study), Study, short_path(path))


def run_name(variant: str, size: str, data: str, seed: int) -> str:
    """Name of a run and its folder."""
    return f"{variant}.{size}.{data}.s{seed}"


def plan_runs(study: Study) -> list[StudyRun]:
    """All runs, seed by seed, small LLMs first. RecipeError where two are the same or a recipe cannot be measured."""
    order = product(study.seeds, study.sizes, study.data, study.variants)
    runs = _plan(study, [(variant, size, data, seed) for seed, size, data, variant in order])
    first: dict[str, str] = {}
    shapes = {}
    for run in runs:
        earlier = first.setdefault(run.fingerprint, run.name)
        if earlier != run.name:
            raise StudyError(f"{study.name}: {run.name} and {earlier} are the same recipe: give each its own `set:`")
        if shapes.setdefault(run.recipe.data.root, run.recipe.data.shapes) != run.recipe.data.shapes:
            raise StudyError(
                f"{study.name}: {run.name}: data.shapes differs from another run's in the same data.root: set data.root too"
            )
    return runs


def plan_run(study: Study, name: str) -> StudyRun:
    """The run of that name."""
    order = product(study.variants, study.sizes, study.data, study.seeds)
    known = {run_name(*choice): choice for choice in order}
    if name not in known:
        raise StudyError(f"{name}: {study.name} has no such run{suggestion(name, known)}")
    return _plan(study, [known[name]])[0]


def llm_parameters(study: Study, runs: Sequence[StudyRun]) -> dict[str, int]:
    """Size -> parameters of its LLM, given or counted in one of the runs; RecipeError where they do not ascend."""
    from lightning_apollo.runs.explain import count_parameters  # builds models: reading a study does without torch

    recipes = {run.size: run.recipe for run in reversed(runs)}
    numbers = {name: size.parameters or count_parameters(recipes[name])["llm"] for name, size in study.sizes.items()}
    try:
        _check_ascends("sizes", numbers)
    except ValueError as error:
        raise StudyError(f"{study.name}: {error}") from error
    return numbers


def _plan(study: Study, choices: Sequence[tuple[str, str, str, int]]) -> list[StudyRun]:
    """The run of each choice of variant, size, data size and seed."""
    words = []
    for variant, size, data, seed in choices:
        own = [*study.variants[variant].set, *study.sizes[size].set, *study.data[data].set]
        folder = Path(study.output) / run_name(variant, size, data, seed)
        words.append([*own, f"output={folder}", f"seed={seed}", "trainer.progress_bar=false"])
    recipes = load_recipes(study.recipe, words)
    if any(recipe.data.shapes is None for recipe in recipes):
        raise StudyError(f"{study.name}: {study.recipe} has no data.shapes: a study is measured on the built-in set")
    return [StudyRun(*choice, recipe) for choice, recipe in zip(choices, recipes, strict=True)]


def _check_ascends(part: str, numbers: Mapping[str, int]) -> None:
    if list(numbers.values()) != sorted(set(numbers.values())):
        each = ", ".join(f"{name} {number:,}" for name, number in numbers.items())
        raise ValueError(f"{part}: write the smallest first, each larger than the one before it; these are {each}")


def _words(part: Mapping[str, Variant | Size | DataSize]) -> Iterator[tuple[str, list[str]]]:
    """The keys that each entry sets."""
    for name, entry in part.items():
        yield name, [word.partition("=")[0] for word in entry.set]


def _overlap(key: str, other: str) -> bool:
    """True if setting one of two dotted keys sets the other, or a part of it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
