"""Checks of names and paths that come before torch and Lightning, whose import takes seconds.

A recipe is read here without its schema: what is no path, or cannot be resolved yet, is left to `load_recipe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_apollo.errors import RecipeError, UserError, suggestion
from lightning_apollo.recipe.conf import conf_folder, recipe_file
from lightning_apollo.recipe.trees import Tree, assign, merge_trees

_WEIGHTS, _EXPORT = "model.safetensors", "lightning_apollo.json"  # of a finished stage, of an export


def require_files(paths: Iterable[str | Path]) -> None:
    """UserError names the first path where no file or folder is."""
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"{path}: no such file or folder: correct the path")


def require_weights(source: str) -> None:
    """UserError where a name of weights can only be a path, not a hub's, and nothing is there."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path or Path(source).suffix in (".safetensors", ".gguf"):
        require_files([source])


def require_manifests(manifests: Iterable[str], root: str) -> None:
    """UserError names the first manifest that is neither a file nor, by its name, below the folder `root`."""
    for name in manifests:
        if _is_elsewhere(name) or _is_elsewhere(root):
            continue
        if not Path(name).is_file() and not (Path(root) / name).is_file():
            below = "" if root == "." or Path(name).is_absolute() else f", here or in {root}"
            raise UserError(f"{name}: no such file{below}: correct the path of the manifest")


def require_data(recipe: str, words: Sequence[str] = (), stage: str | None = None, *, begins: bool = False) -> None:
    """UserError where a recipe, the stage of it, or a manifest that it names is not there.

    With `begins`, the stage is the first that is not finished, and the weights that it starts from are wanted too.
    """
    outline = _Outline(recipe_file(recipe), words)
    outline.require_stage(stage)
    stages = [stage] if stage else outline.stages if begins else outline.stages[-1:]
    stages = [name for name in stages if not (begins and outline.is_done(name))]
    if not stages:
        return
    outline.require_folder_named_by(words)
    for manifests, root in outline.manifests(stages[0]):
        require_manifests(manifests, root)
    init = outline.get(f"stages.{stages[0]}.init")
    if begins and isinstance(init, str) and init != "previous" and not Path(init).exists():
        raise RecipeError(f"stages.{stages[0]}.init: {init}: no such file")


def require_trained(checkpoint: str, words: Sequence[str] = (), stage: str | None = None) -> None:
    """UserError where an export, a finished stage's folder, or the finished stage of a recipe is not there."""
    folder = Path(checkpoint)
    if (folder / _EXPORT).is_file():
        return
    if not folder.is_dir():
        outline = _Outline(recipe_file(checkpoint), words)
        outline.require_stage(stage)
        weights = outline.weights(stage)
    elif not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} has no recipe.yaml: name the folder of a stage that `fit` has finished")
    else:
        weights = (folder if stage is None else folder.resolve().parent / stage) / _WEIGHTS
    if weights is not None and not weights.is_file():
        raise RecipeError(f"{weights} is not there: train it first with `lightning-apollo fit`")


def require_recipe(checkpoint: str, words: Sequence[str] = ()) -> None:
    """RecipeError where a recipe, or that of a stage's folder, has a mistake with these `key=value` words, which an export lacks.

    The schema is read, but no torch: to be called last, when names and paths are right.
    """
    folder = Path(checkpoint)
    if not (folder / _EXPORT).is_file():
        from lightning_apollo.recipe.schema import load_recipe

        load_recipe(folder / "recipe.yaml" if folder.is_dir() else checkpoint, words)
    else:
        require_no_words(checkpoint, words)


def require_no_words(export: str, words: Sequence[str]) -> None:
    """RecipeError where `key=value` words are given for an export, which has no recipe."""
    if words:
        raise RecipeError(f"{export} is an export, whose settings are fixed: leave {' '.join(words)} out")


def may_requeue(recipe: str, words: Sequence[str] = ()) -> bool:
    """True unless the recipe says that its SLURM job is not to be requeued."""
    wish = _Outline(recipe_file(recipe), words).get("trainer.preemption.requeue")
    return str(wish).lower() not in ("false", "no", "off")


class _Outline:
    """The keys and values of a recipe and its `key=value` words, unchecked; `load_recipe` says what is wrong with them."""

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        tree: Tree = {"output": "runs/${name}", **_read_layers(path)}
        for word in words:
            key, _, text = word.partition("=")
            tree = assign(tree, key.split("."), _read_word(text))
        self._tree = tree
        stages = self.get("stages")
        self.stages = [str(name) for name in stages] if isinstance(stages, dict) else []

    def get(self, key: str) -> Any:
        """The value at a dotted key, None where there is none; `${...}` in it stays."""
        value: Any = self._tree
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return None if getattr(value, "value", value) is None else value  # of an unquoted null

    def path(self, value: Any) -> str | None:
        """A value that names a file or folder, with `${key}` resolved; None where it cannot be."""
        if not isinstance(value, str):
            return None
        resolved = re.sub(r"\$\{([\w.]+)\}", lambda match: str(self.get(match[1]) or match[0]), value)
        return None if "${" in resolved else resolved

    def require_stage(self, name: str | None) -> None:
        if name is not None and self.stages and name not in self.stages:
            raise RecipeError(f"{self.get('name')} has no stage {name}{suggestion(name, self.stages)}")

    def require_folder_named_by(self, words: Sequence[str]) -> None:
        """The folder of the user's own media; that of a built-in set is made where it is missing."""
        root = self.path(self.get("data.root"))
        is_named = any(word.startswith("data.root=") for word in words) and self.get("data.manifests")
        if is_named and root is not None and not _is_elsewhere(root):
            require_files([root])

    def manifests(self, stage: str) -> Iterator[tuple[list[str], str]]:
        """Manifests of each source that the stage reads, with their root; none of a built-in set, which is rendered."""
        if self.get("data.manifests"):
            sources = [self.get("data")]
        elif self.get("data.shapes"):
            sources = []
        else:
            mixture = self.get(f"stages.{stage}.mixture") or {}
            sources = [
                self.get(f"data.sources.{source}") or {} for source, passes in mixture.items() if not _is_zero(passes)
            ]
        for source in sources:
            names, root = source.get("manifests"), self.path(source.get("root", "."))
            if isinstance(names, list) and root is not None:
                yield [name for name in map(self.path, names) if name is not None], root

    def weights(self, stage: str | None) -> Path | None:
        """The file of the stage's weights, of the last one where no name is given."""
        output = self.path(self.get("output"))
        name = stage or (self.stages[-1] if self.stages else None)
        return None if output is None or name is None else Path(output) / name / _WEIGHTS

    def is_done(self, stage: str) -> bool:
        weights = self.weights(stage)
        return weights is not None and weights.is_file()


def _is_elsewhere(place: str) -> bool:
    """True if the name is that of a store or of shards or a pattern, no file or folder of this machine."""
    return "://" in place or ".tar" in place or any(character in place for character in "*?[{")


def _read_layers(path: Path, above: tuple[Path, ...] = ()) -> Tree:
    """The tree of a recipe's file and its bases."""
    own = _read_yaml(path.read_text(errors="replace"))
    if not isinstance(own, dict) or path in above:
        return {}
    tree: Tree = {}
    bases = own.pop("base", [])
    for entry in bases if isinstance(bases, list) else ():
        name = str(entry) if str(entry).endswith((".yaml", ".yml")) else f"{entry}.yaml"
        found = next((file for folder in (path.parent, conf_folder()) if (file := folder / name).is_file()), None)
        tree = tree if found is None else merge_trees(tree, _read_layers(found, (*above, path)))
    return merge_trees(tree, own)


def _read_yaml(text: str) -> Any:
    """The tree of the text, in which a string is as it is written; None for what is no YAML."""
    import yaml  # here: a name that is not there is answered without it

    from lightning_apollo.recipe.yaml_text import read_yaml

    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return None


def _read_word(text: str) -> Any:
    """Value that `load_recipe` makes of a word's text, where the option is a string, a list of them or a mapping."""
    from lightning_apollo.recipe.yaml_text import NULLS, split_list, unquoted

    if text.startswith("{"):
        return _read_yaml(text)
    if text.startswith("[") and text.endswith("]"):
        return split_list(text)
    return None if text in NULLS else unquoted(text)


def _is_zero(passes: Any) -> bool:
    try:
        return float(passes) == 0.0
    except (TypeError, ValueError):  # which `load_recipe` refuses
        return passes is None
