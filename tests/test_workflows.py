"""Structure of the GitHub workflow and of the pre-commit hooks, and the commands that they name."""

import copy
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import ROOT
from tests.plain_schema import problems

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PATHS = sorted((ROOT / ".github" / "workflows").iterdir())
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
WORKFLOW["on"] = WORKFLOW.pop(True)  # YAML 1.1 reads on as true
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())

# docs.github.com, "Workflow syntax for GitHub Actions": the part that is used here
STEP = {"name?": str, "env?": {"*": str}}
ACTION = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")  # a commit: a tag can be moved
SCALAR = (str, int, bool)
EVENTS = {
    "push?": (None, {"branches?": [str]}),
    "pull_request?": (None, {"branches?": [str]}),
    "workflow_dispatch?": (None, {}),
}
JOB = {
    "name?": str,
    "runs-on": re.compile(r"ubuntu-\d\d\.\d\d"),
    "timeout-minutes?": int,
    "strategy?": {"fail-fast?": bool, "matrix": {"*": [str]}},
    "steps": [({**STEP, "uses": ACTION, "with?": {"*": SCALAR}}, {**STEP, "run": str})],
}
SCHEMA = {
    "name?": str,
    "on": EVENTS,
    "permissions": {"contents": re.compile("read")},
    "concurrency?": {"group": str, "cancel-in-progress?": bool},
    "jobs": {"*": JOB},
}
# pre-commit.com, "Adding pre-commit plugins to your project" and "Repository local hooks"
HOOK = {
    "id": re.compile(r"[a-z-]+"),
    "name": str,
    "entry": str,
    "language": re.compile("system"),
    "types?": [str],
    "types_or?": [str],
    "files?": str,
    "pass_filenames?": bool,
}
HOOK_SCHEMA = {"repos": [{"repo": re.compile("local"), "hooks": [HOOK]}]}


def changed(tree: Any, *place: Any, value: Any) -> Any:
    """A copy of a tree with another value at one place."""
    tree = copy.deepcopy(tree)
    inner = tree
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return tree


def test_the_workflow_is_one_that_github_runs() -> None:
    assert [path.name for path in PATHS] == ["ci.yml"]
    assert list(problems(WORKFLOW, SCHEMA)) == []


STEPS = ("jobs", "check-and-test", "steps")


@pytest.mark.parametrize(
    "wrong",
    [
        changed(WORKFLOW, "jobs", value={}) | {"job": {}},
        changed(WORKFLOW, "on", value={"pushed": None}),
        changed(WORKFLOW, "jobs", "check-and-test", "strategy", "matrix", "python", value=[3.11]),
        changed(WORKFLOW, "jobs", "check-and-test", "strategy", "matrix", "python", value=[]),
        changed(WORKFLOW, "jobs", "check-and-test", "timeout-minutes", value=True),
        changed(WORKFLOW, "jobs", "check-and-test", "runs-on", value="ubuntu"),
        changed(WORKFLOW, *STEPS, 0, value={"uses": "actions/checkout@v5"}),
        changed(
            WORKFLOW, *STEPS, 0, value={"uses": WORKFLOW["jobs"]["check-and-test"]["steps"][0]["uses"], "run": "ls"}
        ),
        changed(WORKFLOW, *STEPS, 1, "with", "cache", value=None),
        changed(WORKFLOW, *STEPS, 2, value={"name": "nothing to run"}),
        changed(WORKFLOW, "permissions", value={"contents": "write"}),
    ],
)
def test_the_schema_refuses_a_mistake(wrong: Any) -> None:
    assert list(problems(wrong, SCHEMA))


def test_it_checks_and_tests_on_the_versions_that_the_package_names() -> None:
    (job,) = WORKFLOW["jobs"].values()
    prefix = "Programming Language :: Python :: 3."
    assert job["strategy"]["matrix"]["python"] == [
        f"3.{name.removeprefix(prefix)}" for name in PROJECT["classifiers"] if name.startswith(prefix)
    ]
    python = next(step["with"] for step in job["steps"] if "setup-python@" in step.get("uses", ""))
    assert (python["python-version"], python["cache"]) == ("${{ matrix.python }}", "pip")
    assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split())
    commands = [step["run"] for step in job["steps"] if "run" in step]
    made = [command.split()[-1] for command in commands if command.startswith("make ")]
    assert made == ["check", "test"]
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in made)
    assert re.search(r"apt-get install .*\bffmpeg\b", commands[0])  # before anything is made


def test_the_hooks_are_ones_that_pre_commit_reads() -> None:
    assert list(problems(HOOKS, HOOK_SCHEMA)) == []
    wrong = changed(HOOKS, "repos", 0, "hooks", 0, value={"id": "ruff", "entry": "ruff", "lang": "system"})
    assert len(list(problems(wrong, HOOK_SCHEMA))) == 3  # no name, no language, an unknown key


def test_the_hooks_run_the_tools_of_make_check_in_the_versions_that_are_pinned() -> None:
    (repository,) = HOOKS["repos"]
    commands = {hook["id"]: hook["entry"] for hook in repository["hooks"]}
    assert commands.pop("docstrings") == ".venv/bin/python -m tests.docstring_rule"
    programs = {command.split()[0].removeprefix(".venv/bin/") for command in commands.values()}
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert check is not None
    assert programs == set(re.findall(r"\$\(BIN\)/([\w-]+)", check[1]))
    pinned = {need.split("==")[0] for need in PROJECT["optional-dependencies"]["test"] if "==" in need}
    assert programs <= pinned
    assert all(shutil.which(program, path=str(Path(sys.executable).parent)) for program in programs)


@pytest.mark.parametrize("hook", HOOKS["repos"][0]["hooks"], ids=lambda hook: hook["id"])
def test_a_hook_looks_at_files_that_there_are(hook: dict[str, Any]) -> None:
    pattern = re.compile(hook.get("files", ""))
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").rglob("*.py"))
    assert any(pattern.search(path) for path in files)
