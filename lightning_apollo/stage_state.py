"""What the folder of a stage says: whether it is finished, with what it was begun, and from where it can go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_apollo.config import Recipe, RecipeError
from lightning_apollo.models.weight_files import ADAPTER
from lightning_apollo.training.callbacks.checkpoint import checkpoint_step, latest_checkpoint
from lightning_apollo.training.callbacks.export import DONE, WEIGHTS

CHECKPOINTS, BEGUN = "checkpoints", "begun.json"

# Settings that change how fast a stage runs and not what it learns
_WITHOUT_EFFECT = ("num_workers", "decoder_threads", "index", "supervision", "frame_cache")


def stage_folder(recipe: Recipe, name: str) -> Path:
    """The folder of a stage's results."""
    return Path(recipe.output) / name


def is_finished(recipe: Recipe, name: str) -> bool:
    """Whether the stage's weights were trained with these very settings, from the weights that lie before it now."""
    folder = stage_folder(recipe, name)
    if not (folder / DONE).is_file() or not (folder / WEIGHTS).is_file():
        return False
    done = json.loads((folder / DONE).read_text())
    return done["fingerprint"] == fingerprint(recipe, name) and done["started_from"] == digest_of_start(recipe, name)


def fingerprint(recipe: Recipe, name: str) -> str:
    """A hash of all settings that the stage's weights depend on; the files of the data are not read."""
    return hashlib.sha256(json.dumps(_settings(recipe, name), sort_keys=True).encode()).hexdigest()


def _settings(recipe: Recipe, name: str) -> dict[str, Any]:
    """What the weights of a stage depend on. Machines are not part of it: a stage may go on with other ranks."""
    data = asdict(recipe.data)
    return {
        "model": asdict(recipe.model),
        "data": {key: value for key, value in data.items() if key not in _WITHOUT_EFFECT},
        "stage": asdict(recipe.stages[name]),
        "compat": recipe.compat,
        "seed": recipe.seed,
        "precision": recipe.trainer.precision,
    }


def flat_settings(recipe: Recipe, name: str) -> dict[str, Any]:
    """The same, with dotted keys."""
    return _flat(json.loads(json.dumps(_settings(recipe, name))))


def write_begun(recipe: Recipe, name: str) -> None:
    """Notes with what a stage begins, for `--resume` to compare."""
    folder = stage_folder(recipe, name) / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    begun = {"settings": _settings(recipe, name), "started_from": digest_of_start(recipe, name)}
    (folder / BEGUN).write_text(json.dumps(begun, indent=2) + "\n")


def checkpoint_to_go_on_from(recipe: Recipe, name: str, resume: bool) -> Path | None:
    """The last checkpoint of an unfinished stage; RecipeError where going on, or beginning anew, would be a mistake."""
    folder = stage_folder(recipe, name) / CHECKPOINTS
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return None
    if not resume:
        raise RecipeError(
            f"{folder} has a checkpoint of step {checkpoint_step(checkpoint)}: go on from it with --resume, or remove that "
            "folder to train the stage from its start"
        )
    begun = json.loads((folder / BEGUN).read_text())
    before, now = _flat(begun["settings"]), _flat(json.loads(json.dumps(_settings(recipe, name))))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed[:3])
        raise RecipeError(
            f"stage {name} was begun with other settings: {shown}{' ...' * (len(changed) > 3)}; set them as they were, or "
            f"remove {folder} to train the stage from its start"
        )
    if begun["started_from"] != digest_of_start(recipe, name):
        raise RecipeError(
            f"stage {name} was begun from other weights than those that lie before it now: remove {folder} to train it "
            "from its start"
        )
    return checkpoint


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys, the keys that a recipe has for them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def start_file(recipe: Recipe, name: str) -> Path | None:
    """The weights that the stage starts from; None for the model's own."""
    init = recipe.stages[name].init
    if init != "previous":
        return Path(init) / WEIGHTS if Path(init).is_dir() else Path(init)
    names = list(recipe.stages)
    position = names.index(name)
    return stage_folder(recipe, names[position - 1]) / WEIGHTS if position else None


def digest_of_start(recipe: Recipe, name: str) -> str | None:
    """A hash that changes when the weights that the stage starts from are trained again; None without such weights."""
    path = start_file(recipe, name)
    if path is None or not path.is_file():
        return None
    done = path.with_name(DONE)
    facts = done.read_text() if done.is_file() else f"{path.stat().st_size} {path.stat().st_mtime_ns}"
    return hashlib.sha256(facts.encode()).hexdigest()


def clear(folder: Path) -> None:
    """Removes what an earlier training of the stage left, so that nothing of it is taken for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DONE, WEIGHTS, ADAPTER, "quarantine.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
