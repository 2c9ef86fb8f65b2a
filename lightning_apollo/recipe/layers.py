"""Strict YAML layers onto dataclasses: every mistake is one line with the file, the dotted key and what was meant.

A file is built up from the files of its `base:` list, in order, with its own keys on top; `key=value` words come last.
Mappings merge key by key, except those of WRITTEN_WHOLE: a layer that writes one writes all of it, so that what a stage
trains can be read in one place. Every layer is checked by itself, so that an error names the file it stands in.
"""

from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_apollo.errors import RecipeError, suggestion
from lightning_apollo.recipe.trees import Tree, assign, merge_trees
from lightning_apollo.recipe.yaml_text import entry_hint, read_word, read_yaml, settle

# Section -> key in the recipe.yaml of a stage that an earlier version trained -> its name now: what was trained stays readable
EARLIER_NAMES = {"trainer": {"sight": "blank_media_check"}}


def read_layers(path: Path, kind: type, conf: Path, seen: tuple[Path, ...] = ()) -> Tree:
    """Return one tree: the bases of a file in order, its own keys on top; each file is checked against `kind`."""
    label = short_path(path)
    if path.resolve() in seen:
        raise RecipeError(f"{label}: base: the files name each other in a circle")
    own = _with_present_names(path, _read_yaml(path))
    bases = settle(own.pop("base", []), list[str])
    own = settle(own, kind)
    if not isinstance(bases, list) or not all(isinstance(entry, str) for entry in bases):
        raise RecipeError(f"{label}: base: a list of files is expected, not {bases!r}")
    check_keys(own, kind, label)
    tree: Tree = {}
    for entry in bases:
        tree = merge_trees(tree, read_layers(_find_base(entry, path, conf), kind, conf, (*seen, path.resolve())))
    return merge_trees(tree, own)


def _with_present_names(path: Path, own: Tree) -> Tree:
    """The tree of a stage's recipe.yaml by an earlier version under the keys of today; any other file as it is."""
    if path.name != "recipe.yaml":
        return own
    for section, names in EARLIER_NAMES.items():
        if isinstance(written := own.get(section), dict):
            own = {**own, section: {names.get(key, key): value for key, value in written.items()}}
    return own


def with_defaults(tree: Tree, kind: type) -> Tree:
    """Return the tree with the defaults of `kind` written out and "???" where a required value is missing."""
    full = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(kind), tree))
    assert isinstance(full, dict)
    return {str(key): value for key, value in full.items()}


def apply_word(tree: Tree, kind: type, word: str) -> Tree:
    """Return the tree with one `dotted.key=value` word on top; before and after, its defaults are written out.

    The key must exist: a mistyped name never makes a new entry. What the text stands for, its type decides (yaml_text.py).
    """
    key, is_assignment, text = word.partition("=")
    if not is_assignment:
        raise RecipeError(f"{word}: not an override; write key=value, for example seed=1")
    names = key.split(".")
    node: Any = tree
    for depth, name in enumerate(names):
        if node is None:  # a section that is switched off: check() knows its keys
            break
        known = list(node) if isinstance(node, dict) else []
        if name not in known:
            raise RecipeError(f"{word}: {'.'.join(names[: depth + 1])}: unknown key{suggestion(name, known)}")
        node = node[name]
    hint: Any = kind
    for name in names:
        hint = entry_hint(hint, name)
    try:
        layer = value = read_word(text, hint)
    except yaml.YAMLError as error:
        raise RecipeError(f"{word}: {text} is not a YAML value") from error
    for name in reversed(names):
        layer = {name: layer}
    check_keys(layer, kind, word)
    assigned = assign(tree, names, value)
    return with_defaults(assigned, kind) if node is None or isinstance(value, dict) else assigned


def build(tree: Tree, kind: type, label: str) -> Any:
    """Return the `kind` that the tree describes, with `${...}` resolved and every dataclass's own checks passed."""
    config = OmegaConf.merge(OmegaConf.structured(kind), tree)
    try:
        missing = sorted(OmegaConf.missing_keys(config), key=lambda key: (key.count("."), key))
        if missing:
            raise RecipeError(f"{label}: {missing[0]}: required, but no layer of the recipe gives it")
        return _instantiate(config, key="", label=label)
    except OmegaConfBaseException as error:  # a ${...} that names no key
        raise _translated(error, label) from error


def check_keys(tree: Tree, kind: type, label: str) -> None:
    """Raise RecipeError at the first unknown key or wrong type; keys may be missing."""
    _check_keys(tree, kind, label, key="")
    try:
        OmegaConf.merge(OmegaConf.structured(kind), tree)
    except OmegaConfBaseException as error:
        raise _translated(error, label) from error


def short_path(path: Path) -> str:
    """Return the path as a user would type it: relative where it lies below the working directory."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(path)


def _read_yaml(path: Path) -> Tree:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RecipeError(f"{short_path(path)}: {line}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{short_path(path)}: no YAML in UTF-8: {str(error).splitlines()[0]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"{short_path(path)}: a mapping of keys to values is expected")
    return content


def _find_base(entry: str, path: Path, conf: Path) -> Path:
    name = entry if entry.endswith((".yaml", ".yml")) else f"{entry}.yaml"
    for folder in (path.parent, conf):
        if (folder / name).is_file():
            return folder / name
    known = [file.relative_to(conf).with_suffix("").as_posix() for file in sorted(conf.glob("*/*.yaml"))]
    raise RecipeError(f"{short_path(path)}: base: no file {entry}{suggestion(entry, known)}")


def _check_keys(tree: Any, kind: type, label: str, key: str) -> None:
    """Walk tree and type side by side: `kind` is a dataclass or dict[str, dataclass]."""
    if not isinstance(tree, dict):
        raise RecipeError(f"{label}: {key}: a mapping of keys to values is expected, not {tree!r}")
    hints = get_type_hints(kind) if is_dataclass(kind) else None
    for name, value in tree.items():
        full_key = f"{key}.{name}" if key else str(name)
        if hints is not None and name not in hints:
            raise RecipeError(f"{label}: {full_key}: unknown key{suggestion(str(name), hints)}")
        nested = _section_type(hints[name] if hints is not None else get_args(kind)[1])
        if nested is not None and value is not None:
            _check_keys(value, nested, label, full_key)


def _section_type(hint: Any) -> type | None:
    """Return the dataclass, or dict of dataclasses, that a field holds; None for a plain value."""
    if get_origin(hint) in (Union, UnionType):
        return next(filter(None, map(_section_type, get_args(hint))), None)
    if get_origin(hint) is dict:
        return hint if is_dataclass(get_args(hint)[1]) else None
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _translated(error: OmegaConfBaseException, label: str) -> RecipeError:
    message = str(error).splitlines()[0]
    if "is not a ListConfig" in message:
        message = "a list is expected, for example [a, b]"
    elif error.full_key and ":" in error.full_key:
        message = "a colon needs a space behind it, for example {vision: 1e-5}"
    return RecipeError(f"{label}: {error.full_key or ''}: {message}")


def _instantiate(node: Any, key: str, label: str) -> Any:
    if isinstance(node, ListConfig):
        return list(node)
    if not isinstance(node, DictConfig):
        return node
    values = {str(name): _instantiate(node[name], f"{key}.{name}" if key else str(name), label) for name in node}
    kind = OmegaConf.get_type(node)
    if kind is None or not is_dataclass(kind):
        return values
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{label}: {key}: {error}" if key else f"{label}: {error}") from error
