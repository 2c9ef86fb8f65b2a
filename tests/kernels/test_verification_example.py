"""The verification tools on a kernel that is not ours: each finds a fault in it, with nothing of this project at hand."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.places import KERNELS
from verification.far import far
from verification.mutants import Mutant, Op, plant
from verification.sanitizer import Sanitizer
from verification.shadow import KernelFault
from verification.traffic import measure, needs_note

VERIFICATION = KERNELS / "verification"
EXAMPLE = VERIFICATION / "example"
OP = Op.find("softmax", EXAMPLE / "row_softmax", EXAMPLE)
FAULTS = {mutant.fault: mutant for mutant in OP.mutants}
KERNEL = "_softmax_kernel"
READ_TWICE = Mutant(KERNEL, "x read twice", "shares = ", "shares = tl.load(x + places, mask=mask, other=0.0) * 0 + ")
BACKWARDS = Mutant(KERNEL, "columns from last to first", "columns = ", "columns = COLUMNS - 1 - ")

REFUSED = """
import sys

class Refused:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("lightning_apollo", "apollo_kernels", "lightning", "transformers", "tests"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refused())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the tools alone, as of someone who has nothing else of this repository; the example lies in it."""
    shutil.copytree(VERIFICATION, tmp_path / "verification", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


Plant = Callable[[Mutant | None], ModuleType]


@pytest.fixture
def planted(tmp_path: Path) -> Plant:
    """Import a copy of the example with a fault in it, or as it stands."""

    def import_copy(mutant: Mutant | None) -> ModuleType:
        path = tmp_path / f"softmax_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(plant(OP.source, mutant) if mutant else OP.source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return import_copy


def run_python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(project), str(project / "verification/example")])
    return subprocess.run([sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("programs overlap by a row", r"store at y_out\[15.*race"),
        ("one row past the end", r"load at x\[35.*bounds.*\b35 elements"),
        ("a masked load without other", r"\bx .*other="),
        ("a store without its mask", r"store at y_out\[5.*once"),
    ],
)
def test_the_sanitizer_names_the_fault(planted: Plant, fault: str, message: str) -> None:
    x = torch.zeros(7, 5)
    with Sanitizer(shuffle=1):
        assert planted(None).softmax(x).tolist() == torch.full((7, 5), 0.2).tolist()
    with Sanitizer(), pytest.raises(KernelFault, match=message):
        planted(FAULTS[fault]).softmax(x)


def test_rows_of_32_bits_do_not_reach_far(planted: Plant) -> None:
    def last_program(module: ModuleType) -> list[list[float]]:
        x, y, first_row = torch.zeros(4, 2), torch.empty(4, 2), 1 << 31
        with far(first_program=first_row // 4, x=first_row * 2, y_out=first_row * 2):
            module._softmax_kernel[(1,)](x, y, first_row + 4, 2, 4, 2)
        return y.tolist()

    assert last_program(planted(None)) == [[0.5, 0.5]] * 4
    with pytest.raises(Exception, match=r"\d+ of \d+ addresses"):
        last_program(planted(FAULTS["32-bit rows"]))


def test_a_sum_of_bfloat16_is_refused(planted: Plant) -> None:
    x = torch.zeros(4, 8, dtype=torch.bfloat16)
    assert planted(None).softmax(x).tolist() == [[0.125] * 8] * 4
    with pytest.raises(Exception, match=r"reduction.*bfloat16"):
        planted(FAULTS["sums in the dtype of y"]).softmax(x)


@pytest.mark.parametrize(("mutant", "ratio"), [(None, 1.0), (READ_TWICE, 2.0)])
def test_traffic_shows_what_is_read_twice(planted: Plant, mutant: Mutant | None, ratio: float) -> None:
    module = planted(mutant)
    read, written = measure("softmax", lambda: module.softmax(torch.zeros(8, 64)), {})
    assert (read.argument, read.ratio, needs_note(read)) == ("x", ratio, ratio > 1)
    assert (written.argument, written.ratio, needs_note(written)) == ("y_out", 1.0, False)


def test_codegen_shows_narrow_loads(project: Path) -> None:
    """From last to first, the eight bfloat16 of a thread are no longer 16 bytes side by side."""
    source = project / "verification/example/row_softmax/softmax.py"
    found = []
    for text in (OP.source, plant(OP.source, BACKWARDS)):
        source.write_text(text)
        command = ["-m", "verification.codegen", "--cases", "codegen_cases", "--target", "sm_90", "--jobs", "1"]
        run = run_python(project, *command)
        assert run.returncode == 0, run.stderr
        lines = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()]
        found.append({(line[2], line[4], line[-1]) for line in lines[2:]})
    lengths, elements = ("1", "17", "4096"), {"float32": 4, "bfloat16": 2}
    assert found[0] == {(dtype, n, "x 16, y_out 16") for dtype, n in product(elements, lengths)}
    assert found[1] == {
        (dtype, n, f"x {size}, y_out {size}") for (dtype, size), n in product(elements.items(), lengths)
    }


def test_the_examples_tests_run_without_this_project(project: Path) -> None:
    (project / "refused.py").write_text(REFUSED)
    run = run_python(project, "-m", "pytest", "-q", "-p", "refused", "verification/example")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 passed" in run.stdout


def test_the_readmes_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the one for a GPU."""
    monkeypatch.syspath_prepend(EXAMPLE)
    blocks = re.findall(r"```python\n(.*?)```", (VERIFICATION / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        if "launches_on_gpu" not in block:
            exec(block, names)
    assert len(blocks) == 8


@pytest.mark.slow
def test_every_fault_of_the_example_is_noticed(project: Path) -> None:
    places = ("--package", "verification/example/row_softmax", "--tests", "verification/example")
    run = run_python(project, "-m", "verification.mutants", *places)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.rstrip().endswith("softmax._softmax_kernel: 12 of 12 killed")
