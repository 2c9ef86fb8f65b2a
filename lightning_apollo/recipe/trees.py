"""Trees of YAML keys and values, merged layer on layer."""

from typing import Any, cast

Tree = dict[str, Any]

WRITTEN_WHOLE = ("trains", "lora", "mixture", "shares")  # a layer that writes one of these writes all of it


def merge_trees(below: Tree, above: Tree) -> Tree:
    """Return both trees in one, key by key; where both have a value, that of `above`."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        is_nested = key not in WRITTEN_WHOLE and isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge_trees(cast(Tree, old), value) if is_nested else value
    return merged


def assign(tree: Tree, names: list[str], value: Any) -> Tree:
    """Return the tree with a value at the key of these names, merged with a mapping that is there."""
    head, *rest = names
    if not rest:
        return merge_trees(tree, {head: value})
    below = tree.get(head)
    return {**tree, head: assign(below if isinstance(below, dict) else {}, rest, value)}
