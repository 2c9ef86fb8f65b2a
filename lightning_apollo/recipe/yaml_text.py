"""YAML scalars with the text they were written with, which is what a string option takes.

YAML alone would make 20241128 of `output: 2024_11_28`, True of `name: yes` and 10 of `012`. Here the type of the option decides:

    written      str             int      float    bool    str | None
    2024_11_28   "2024_11_28"    20241128 20241128 -       "2024_11_28"
    yes          "yes"           -        -        True    "yes"
    012          "012"           12       12.0     -       "012"
    null         "null"          -        -        -       None

Numbers are those of YAML 1.2, with `1e-5` and `1_000` besides: no octal 012, no 1:30 for 90.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from itertools import chain
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

MAX_NODES = 10_000
NULLS = ("", "~", "null", "Null", "NULL")
_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "bool": r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "int": r"[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "null": "|".join(map(re.escape, NULLS)),
    "merge": "<<",
}


class Scalar(str):
    """Text without quotes that YAML takes for a number, a truth value or nothing: `value`."""

    value: Any

    def __new__(cls, text: str, value: Any) -> Scalar:
        scalar = super().__new__(cls, text)
        scalar.value = value
        return scalar


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the first is ten times as fast
    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  # without those of YAML 1.1

    def construct_document(self, node: yaml.Node) -> Any:
        _count_nodes(node, {})
        return super().construct_document(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Mappings come through here once, before `<<` puts other keys into them."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _refusal(f"found duplicate key {key.value}", key)
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        super().flatten_mapping(node)

    def construct_written(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "merge":  # in the place of a value
            return text
        if kind == "int":
            return Scalar(text, int(text, 16) if text.startswith("0x") else int(text))
        if kind == "float":
            return Scalar(text, float(re.sub(r"\.(?=[inIN])", "", text)))
        return Scalar(text, None if kind == "null" else text.lower() in ("yes", "true", "on"))


for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern})$"), None)
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_written)


def read_yaml(text: str) -> Any:
    """The tree of a YAML text, with a Scalar where the type of the option decides. yaml.YAMLError for what is none."""
    return yaml.load(text, _Loader)


def settle(value: Any, hint: Any) -> Any:
    """The value with each Scalar as the type `hint` of the option has it; keys are text. Any type: YAML's own value."""
    options = _options(hint)
    if isinstance(value, Scalar):
        if str not in options:
            return value.value
        return None if value.value is None and NoneType in options else str(value)
    if isinstance(value, dict):
        return {str(key): settle(entry, entry_hint(hint, str(key))) for key, entry in value.items()}
    if isinstance(value, list):
        items = next((get_args(option)[0] for option in options if get_origin(option) is list), Any)
        return [settle(entry, items) for entry in value]
    return value


def read_word(text: str, hint: Any) -> Any:
    """The value of a `key=value` word's text for an option of type `hint`. yaml.YAMLError for what cannot be one.

    A string is the text itself, whatever characters are in it, but for quotes around all of it, which are taken off.
    """
    options = _options(hint)
    if str in options:
        return None if text in NULLS and NoneType in options else unquoted(text)
    if list[str] in options and text.startswith("[") and text.endswith("]"):
        return split_list(text)
    return settle(read_yaml(text), hint)


def unquoted(text: str) -> str:
    """The text without the YAML quotes around all of it; any other as it is."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    try:
        value = read_yaml(text)
    except yaml.YAMLError:  # quotes of the text's own: 'a' and 'b'
        return text
    return value if isinstance(value, str) else text


def split_list(text: str) -> list[str]:
    """The texts between the commas of `[a, 'b, c', x-{1,2}.tar]`: not those inside quotes or further brackets."""
    items, depth, quote = [""], 0, ""
    for character in text[1:-1]:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not items[-1].strip():  # at the start of an item: elsewhere it is a letter
            quote = character
        elif character == "," and not depth:
            items.append("")
            continue
        depth += not quote and (character in "[{(") - (character in ")}]")
        items[-1] += character
    stripped = [item.strip() for item in items]
    return [unquoted(item) for item in (stripped if stripped[-1] else stripped[:-1])]


def entry_hint(hint: Any, name: str) -> Any:
    """The type of the entry `name` of a dataclass or of a dict; Any where there is none."""
    for option in _options(hint):
        if is_dataclass(option) and isinstance(option, type):
            return get_type_hints(option).get(name, Any)
        if get_origin(option) in (dict, Mapping):
            return get_args(option)[1]
    return Any


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below this one with every alias written out. An error above MAX_NODES, and for an alias inside of itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # until it is counted: whoever meets it before is below it
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = chain.from_iterable(children) if isinstance(node, yaml.MappingNode) else children
        known[id(node)] = 1 + sum(_count_nodes(child, known) for child in flat)
    if known[id(node)] > MAX_NODES:
        raise _refusal(f"more than {MAX_NODES:,} entries, with every alias written out", node)
    return known[id(node)]


def _refusal(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
