"""Unique public names in the package and the kernels."""

import ast
from collections import defaultdict
from collections.abc import Mapping

from tests.places import ROOT

# Rules that bear the name of their benchmark, as its reader does
NAMED_AS_THEIR_READER = "lightning_apollo/evaluation/paper_rules.py"
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("lightning_apollo", "kernels/apollo_kernels")
    for path in (ROOT / folder).rglob("*.py")
}


def is_command(node: ast.FunctionDef) -> bool:
    """True for a function that typer turns into a command of the same name: nothing else calls it."""
    calls = [decorator.func for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in ("command", "callback") for call in calls)


def is_option(node: ast.Assign) -> bool:
    """True for an option of a command, `Annotated[..., typer.Option(...)]`, which bears the option's name."""
    return isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Annotated"


def public_names(text: str) -> set[str]:
    """Classes, functions and type aliases of a module; neither what begins with `_` nor `main`, which a script ends with."""
    names = set[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and not is_command(node)):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and not is_option(node):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            names.update(name for name in targets if name[0].isupper() and not name.isupper())
    return {name for name in names if not name.startswith("_") and name != "main"}


def repeated(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names that are public in several files, with those files."""
    files = defaultdict[str, list[str]](list)
    for path, text in sorted(sources.items()):
        for name in public_names(text):
            files[name].append(path)
    return {name: paths for name, paths in files.items() if len(paths) > 1}


def test_a_public_name_stands_for_one_thing() -> None:
    others = {path: text for path, text in SOURCES.items() if path != NAMED_AS_THEIR_READER}
    assert repeated(others) == {}


def test_a_rule_of_the_paper_shares_its_name_with_a_reader_alone() -> None:
    shared = {name: paths for name, paths in repeated(SOURCES).items() if NAMED_AS_THEIR_READER in paths}
    assert "chartqa" in shared
    for name, (_, *others) in shared.items():
        assert len(others) == 1, name
        assert others[0].startswith("lightning_apollo/evaluation/readers/"), name


def test_a_second_class_function_or_alias_of_a_name_is_found() -> None:
    sources = {
        "a.py": "class Plan: ...\ndef draw(): ...\nRow = dict\ndef _own(): ...\ndef main(): ...\nLIMIT = 1",
        "b.py": "class Plan: ...\ndef draw(): ...\nRow = dict\ndef _own(): ...\ndef main(): ...\nLIMIT = 2",
        "c.py": "@app.command()\ndef draw(): ...\nclass Other:\n    class Plan: ...",
    }
    assert repeated(sources) == {name: ["a.py", "b.py"] for name in ("Plan", "draw", "Row")}
