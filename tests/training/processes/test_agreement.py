"""Ranks with different environments end together, in a line that names the rank and the difference."""

import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lightning_apollo.training.processes.agreement import disagreement
from tests.places import ROOT
from tests.warm import warm

HOST = socket.gethostname()

Results = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of each case of rank_agreement.py: exit code, seconds and output of both ranks."""
    folder = tmp_path_factory.mktemp("agreement")
    command = ["timeout", "-k", "5", "240", *warm("-m", "tests.runs.rank_agreement", str(folder))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return lambda case: json.loads((folder / f"{case}.json").read_text())


REFUSED = {  # case -> what every rank says
    "an_output_each": f"rank 1 ({HOST}) does not see what rank 0 writes: its output is ",
    "another_seed": f"rank 1 ({HOST}) does not see what rank 0 ({HOST}) sees: seed is 1 instead of 0: start all ranks",
    "a_manifest_on_one_machine": f"rank 1 ({HOST}): ",
    "the_same_mistake_on_all": "sed=1: sed: unknown key, did you mean seed?",
    "other_rows": f"rank 1 ({HOST}) does not see what rank 0 ({HOST}) sees: digest of the data is abc1 instead of abc0",
}


@pytest.mark.parametrize("case", REFUSED)
def test_ranks_that_differ_end_together_in_one_line(case: str, results: Results) -> None:
    for rank in results(case):
        assert rank["code"] == 2, rank["output"]
        assert rank["seconds"] < 30
        (line,) = [line for line in rank["output"].splitlines() if line]
        assert line.startswith(REFUSED[case])


def test_what_is_refused_is_named(results: Results) -> None:
    line = results("an_output_each")[0]["output"]
    assert "/node0" in line
    assert "/node1" in line
    assert "gone.jsonl: no such file" in results("a_manifest_on_one_machine")[0]["output"]


def test_a_rank_that_does_not_come_is_named_and_not_waited_for(results: Results) -> None:
    first = results("one_that_does_not_come")[0]
    assert first["code"] == 2
    named, ended = [line for line in first["output"].splitlines() if "rank 1" in line]
    assert named.startswith("rank 1 not ready after ")
    assert ended.endswith("look at what they say, and start all again")


def test_ranks_that_see_the_same_continue_and_leave_nothing(results: Results) -> None:
    for rank in results("the_same"):
        assert rank["code"] == 0
        assert rank["output"].startswith("{'seed': '0'} [")
    assert "[]" in results("the_same")[0]["output"]


def test_the_first_rank_that_differs_is_named_with_what_differs() -> None:
    same = {"facts": {"last checkpoint": "that of step 4", "seed": "0"}, "problem": "", "output": "/runs"}
    behind = {**same, "facts": {"last checkpoint": "none", "seed": "0"}}
    assert disagreement([same, same], ["a", "b"]) == ""
    assert disagreement([same, same, behind], ["a", "b", "c"]).startswith(
        "rank 2 (c) does not see what rank 0 (a) sees: last checkpoint is none instead of that of step 4: start"
    )
