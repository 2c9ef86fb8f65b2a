"""The settings of a recipe that the weights of a stage depend on: values that are not the default, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.file_digest import digest_files

# Class and field -> why another value gives the same weights; the table in docs/runs.md has them too
WITHOUT_EFFECT = {
    "Recipe.name": "a name of folders",
    "Recipe.output": "where results lie",
    "TrainerConfig.accelerator": "a machine",
    "TrainerConfig.devices": "a machine: what a step learns from is the same on any number of ranks",
    "TrainerConfig.num_nodes": "a machine",
    "TrainerConfig.strategy": "how ranks share the work",
    "TrainerConfig.threads": "a machine",
    "TrainerConfig.log_every_n_steps": "logging",
    "TrainerConfig.progress_bar": "logging",
    "TrainerConfig.checkpoint": "what is kept on the way",
    "TrainerConfig.preemption": "when the run stops",
    "TrainerConfig.non_finite": "error policy",
    "TrainerConfig.blank_media_check": "a measurement, which puts random states back",
    "TrainerConfig.sentinel": "a watch on ranks",
    "DataConfig.outside_root": "a permission; which rows a stage that packs leaves out counts with the data",
    "DataConfig.storage": "a permission",
    "DataConfig.unknown_keys": "error policy; the same",
    "DataConfig.on_error": "error policy",
    "DataConfig.max_error_share": "error policy",
    "DataConfig.num_workers": "who decodes",
    "DataConfig.supervision": "who decodes",
    "DataConfig.frame_cache": "who decodes",
    "DataConfig.decoder_threads": "who decodes",
    "DataConfig.index": "what packing reads; made from the data, which count themselves",
    "ShapesConfig.num_held_out": "what the evaluation alone sees",
    "FusedEncoderConfig.encode_batch_size": "memory",
    "StageConfig.micro_batch_size": "memory: the samples of a step are the same",
    "StageConfig.activation_checkpointing": "memory",
}
# What counts by its content, wherever it lies: Origin.data, Origin.start and, here, the tokenizer
BY_CONTENT = {
    "DataConfig.sources",
    "DataConfig.manifests",
    "DataConfig.root",
    "StageConfig.init",
    "LLMConfig.tokenizer",
    "LLMConfig.weights",
    "VisionEncoderConfig.weights",
    "TowerConfig.weights",
}
# A default is left out of the settings, so that an option which a release adds changes nothing. Where a release changes the
# value of a default, it adds a line here, class and field -> the value that 0.2.0 had: then that one alone is left out, and
# a stage that was trained with it is another than one with the new default. tests/runs/test_settings.py watches.
DEFAULTS_CHANGED: dict[str, Any] = {}

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens_map*", "added_tokens*", "*.model", "*.tiktoken")


def settings_of(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Settings that the weights of a stage depend on beside data and start weights, without what is left at its default.

    Keys are those of the recipe. Settings of other stages, and those that this one does not use, are left out.
    """
    config = recipe.stages[stage]
    unused = ["epochs"] if config.max_steps != -1 else []
    unused += ["global_batch_size"] if config.packing is not None else []
    left_out = [f"stages.{stage}.{name}" for name in unused] + [f"stages.{stage}.mixture"]
    left_out += ["data.cost"] if config.packing is None else []
    own = {key: value for key, value in _not_default(recipe, None, "") if _is_of(key, stage, left_out)}
    mixture = {name: passes for name, passes in config.mixture.items() if passes}
    own |= {f"stages.{stage}.mixture.{name}": _plain(passes) for name, passes in mixture.items()}
    own["data.sources"] = [name for name in recipe.data.sources if name in mixture]  # whose order an epoch depends on
    if config.shares:
        own |= {f"data.sources.{name}.modality": recipe.data.sources[name].modality for name in own["data.sources"]}
    own["model.llm.tokenizer"] = _content_of_tokenizer(recipe.model.llm.tokenizer)
    return own


def places_of(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The names that a recipe gives to what otherwise counts by its content: data, start weights and models."""
    data, config = recipe.data, recipe.stages[stage]
    sources = {
        name: [source.root, *source.manifests] for name, source in data.sources.items() if name in config.mixture
    }
    return {"root": data.root, "sources": sources, "init": config.init, "weights": recipe.model.weights}


def default_at(key: str) -> Any:
    """The default of a dotted key, as `settings_of` leaves it out; None where there is none."""
    kind: Any = Recipe
    default = None
    for name in key.split("."):
        if get_origin(kind) is dict:
            kind, default = get_args(kind)[1], None
            continue
        if not is_dataclass(kind):
            return None
        default = next((first_default(kind, field) for field in fields(kind) if field.name == name), None)
        kind = _section(get_type_hints(kind).get(name))
    return None if default is MISSING or is_dataclass(default) else default


def first_default(kind: Any, field: Field[Any]) -> Any:
    """The default of a field in 0.2.0, or in the release that added it; MISSING where the field is required."""
    name = f"{kind.__name__}.{field.name}"
    if name in DEFAULTS_CHANGED:
        return DEFAULTS_CHANGED[name]
    return field.default if field.default_factory is MISSING else field.default_factory()


def _not_default(config: Any, base: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that counts and is not as in `base`, or where that is None, not the default."""
    for field in fields(config):
        name = f"{type(config).__name__}.{field.name}"
        if name in WITHOUT_EFFECT or name in BY_CONTENT:
            continue
        has_own = base is None or name in DEFAULTS_CHANGED
        default = first_default(type(config), field) if has_own else getattr(base, field.name)
        yield from _changed(getattr(config, field.name), default, f"{prefix}{field.name}")


def _changed(value: Any, default: Any, key: str) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):
        if default is None:
            yield key, True  # a section that is there, whatever of it is left at its default
        yield from _not_default(value, default if is_dataclass(default) else None, f"{key}.")
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _changed(entry, None, f"{key}.{name}")
    elif value != default:
        yield key, _plain(value)


def _is_of(key: str, stage: str, left_out: list[str]) -> bool:
    """True for keys of the stage or of all stages, but for those left out."""
    if key.startswith("stages.") and not key.startswith(f"stages.{stage}."):
        return False
    return not any(f"{key}.".startswith(f"{name}.") for name in left_out)


def _plain(value: Any) -> Any:
    """The value as JSON has it; 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _section(hint: Any) -> Any:
    """The dataclass, or dict of values, that a field holds; None for a plain value."""
    if get_origin(hint) is dict or is_dataclass(hint):
        return hint
    return next((found for found in map(_section, get_args(hint)) if found is not None), None)


def _content_of_tokenizer(name: str) -> str:
    """A hash of the files of a tokenizer's folder; the name where that is a hub's."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    return digest_files(sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}))
