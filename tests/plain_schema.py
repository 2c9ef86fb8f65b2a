"""Structure of YAML files against schemas written as plain Python values.

A type means a value of it, a pattern a string that it matches, `[schema]` a list of such values, a tuple one of several
schemas, None null. A dict means a mapping: `name` is required, `name?` optional, `*` stands for every other key, and keys
without a schema are wrong.
"""

import re
from collections.abc import Iterator
from typing import Any


def problems(value: Any, schema: Any, place: str = "") -> Iterator[str]:
    """One line for each place where a value is not as its schema says."""
    if isinstance(schema, tuple):
        if all(any(problems(value, one)) for one in schema):
            yield f"{place}: {value!r} fits none of {len(schema)} schemas"
    elif isinstance(schema, dict):
        yield from _mapping_problems(value, schema, place)
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{place}: {value!r} is no list with entries"
        else:
            for number, entry in enumerate(value):
                yield from problems(entry, schema[0], f"{place}[{number}]")
    elif isinstance(schema, re.Pattern):
        if not isinstance(value, str) or not schema.fullmatch(value):
            yield f"{place}: {value!r} does not match {schema.pattern}"
    elif value is not None if schema is None else type(value) is not schema:  # a bool is no int
        yield f"{place}: {value!r} is no {schema}"


def _mapping_problems(value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no mapping"
        return
    known = {name.removesuffix("?"): inner for name, inner in schema.items()}
    for name in schema:
        if not name.endswith("?") and name != "*" and name not in value:
            yield f"{place}: {name} is missing"
    for name, entry in value.items():
        inner = known.get(name, known.get("*", KeyError))
        if inner is KeyError:
            yield f"{place}: unknown key {name}"
        else:
            yield from problems(entry, inner, f"{place}.{name}")
