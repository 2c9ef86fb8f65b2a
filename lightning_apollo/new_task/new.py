"""Write the recipe of a new task from a template, the user's data and a few chosen settings."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from lightning_apollo.data.annotations.keys import IGNORE, REFUSE
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.errors import suggestion
from lightning_apollo.new_task.choose import TEMPLATES, Chosen, choose_settings, choose_template
from lightning_apollo.new_task.start import Start, find_start
from lightning_apollo.new_task.survey import Survey, survey
from lightning_apollo.progress import CheckProgress
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.recipe.trees import Tree
from lightning_apollo.runs.build import text_counter

STAGE = "fine_tuning"  # the only one of every template


@dataclass(frozen=True)
class Task:
    """Options of `lightning-apollo new`."""

    name: str  # of the recipe; results go to runs/NAME
    manifests: tuple[str, ...]
    root: str  # what media paths start from
    start: str | None = None  # a finished stage's folder or imported weights; None: the template's own start
    template: str | None = None  # one of TEMPLATES; None: the one that fits
    unknown_keys: str = REFUSE  # data.unknown_keys of the recipe

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise RecipeError(f"{self.name!r} names a folder: write letters, digits, dots, dashes and underscores")
        if self.template is not None and self.template not in TEMPLATES:
            raise RecipeError(f"no template {self.template}{suggestion(self.template, TEMPLATES)}")
        if self.unknown_keys not in (REFUSE, IGNORE):
            raise RecipeError(f"--unknown-keys is refuse or ignore, not {self.unknown_keys!r}")
        if not self.manifests:
            raise RecipeError("no data: name a manifest with --data")


@dataclass(frozen=True)
class NewRecipe:
    """Findings, choices and written files."""

    path: Path
    recipe: Recipe
    survey: Survey
    chosen: Chosen
    template: str
    template_reason: str


def write_recipe(
    task: Task, path: Path, progress: Callable[[], AbstractContextManager[CheckProgress]], jobs: int | None = None
) -> NewRecipe:
    """Look at the data, write a recipe for them that is never there already, and return both.

    `jobs` processes probe media files; None: one a core. RecipeError, ManifestError and WeightsError say what to correct.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{path}: a recipe's file ends in .yaml")
    if path.exists():
        raise RecipeError(f"{path} is there already: name another file with --output, or remove it")
    own: Tree = {"name": task.name, "data": {"manifests": list(task.manifests), "root": task.root}}
    provisional = _file_of(task.template or "lora")  # all templates have one model
    start = find_start(task.start, lambda *models: _compose([provisional, *models], own))
    own = _from_start(own, start, _compose([provisional], own))
    text = _text_counter_at_hand(_compose([provisional], own))
    num_jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    with tempfile.TemporaryDirectory() as folder:
        with progress() as report:
            found = survey(task.manifests, task.root, Path(folder), num_jobs, text, report, task.unknown_keys)
        template, reason = (task.template, "as asked for") if task.template else choose_template(found)
        chosen = choose_settings(found, _compose([_file_of(template)], own), STAGE, text)
    written = _lines(task, f"base: [{_file_of(template)}]  # {reason}", start, own["model"], found, chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x") as file:
        file.write(written)
    return NewRecipe(path, load_recipe(path), found, chosen, template, reason)


def _compose(bases: Sequence[str], own: Tree) -> Recipe:
    """The recipe of these files of conf/ with those keys on top."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump({"base": list(bases), **own}))
        return load_recipe(path)


def _file_of(template: str) -> str:
    return f"recipe/finetune-{template}"


def _from_start(own: Tree, start: Start, template: Recipe) -> Tree:
    """The keys with those that the start brings: its model where that is not the template's, and how it was trained."""
    model = _differences(asdict(start.model), asdict(template.model))
    sampling = {"kind": start.sampling.kind, "max_frames": start.sampling.max_frames}  # a rate is the template's
    settings = {**start.data, "budget": asdict(start.budget)}
    settings["sampling"] = {**start.data.get("sampling", {}), **sampling}
    if start.init is None:
        return {**own, "model": model}
    return {**own, "model": model, "data": {**own["data"], **settings, "system_prompt": start.system_prompt}}


def _differences(wanted: Tree, given: Tree) -> dict[str, Any]:
    different: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(given[key], dict):
            nested = _differences(value, given[key])
            different |= {key: nested} if nested else {}
        elif value != given[key]:
            different[key] = _below_conf(value)
    return different


def _below_conf(value: Any) -> Any:
    """A path in conf/ as recipes write it, everything else as it is."""
    if isinstance(value, str) and Path(value).is_relative_to(conf_folder()):
        return Path(value).relative_to(conf_folder()).as_posix()
    return value


def _text_counter_at_hand(recipe: Recipe) -> TextCounter | None:
    """Counter of text, where the tokenizer is on this machine; nothing is downloaded for a count."""
    name = recipe.model.llm.tokenizer
    is_at_hand = Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "tokenizer.json"), str)
    return text_counter(recipe) if is_at_hand else None


def _lines(task: Task, base: str, start: Start, model: Tree, found: Survey, chosen: Chosen) -> str:
    """The recipe's text."""
    why = chosen.reasons
    lines = [
        "# Written by `lightning-apollo new`, which looked at these rows. Everything here may be changed;",
        "# `lightning-apollo explain` shows what it then means. Paths start where the commands are run.",
        base,
        f"name: {_scalar(task.name)}",
        "data:",
        f"  manifests: {_scalar(list(task.manifests))}",
        f"  root: {_scalar(task.root)}",
        *([f"  unknown_keys: {task.unknown_keys}"] if task.unknown_keys != REFUSE else []),
    ]
    if start.system_prompt:
        lines.append(f"  system_prompt: {_scalar(start.system_prompt)}  # as the start was trained")
    if len(found.shown_seconds):
        sampling = chosen.sampling
        rate = f"kind: {sampling.kind}, fps: {sampling.fps:g}, max_frames: {sampling.max_frames}"
        shown = f"phase: {sampling.phase}, repeats: {sampling.repeats}, clock: {sampling.clock}"
        lines += [f"  # {why['sampling']}; phase, repeats, clock and streams are those of the start"]
        lines += [f"  sampling: {{{rate}, {shown}}}", f"  streams: {chosen.streams}"]
    lines += [
        "  budget:",
        f"    # visual tokens of a row: {why['token_budget']}",
        f"    token_budget: {chosen.budget.token_budget}",
        f"    min_tokens: {chosen.budget.min_tokens}  # of a frame",
        f"    # those {why['max_length']}",
        f"    max_length: {chosen.budget.max_length}",
    ]
    lines += ["stages:", f"  {STAGE}:"]
    if start.init is not None:
        lines.append(f"    init: {_scalar(start.init)}")
    lines += [
        f"    epochs: {chosen.epochs}  # {why['steps']}",
        f"    global_batch_size: {chosen.global_batch_size}",
        f"    micro_batch_size: {chosen.micro_batch_size}  # samples in memory at one time",
    ]
    if model:
        lines += ["model:  # that of the start", *_indented(yaml.safe_dump(dict(model), sort_keys=False))]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """The value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
