"""Code budgets of every kernel on every GPU. Spills, registers, shared memory, widths of loads and stores.

Budgets are written by hand into codegen_budgets.csv, a little above what Triton 3.8.0 gave. Case, kernel, dtype and target
may be patterns, as of file names; min_width_bytes states the narrowest access of each pointer argument.
"""

import csv
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest

from tests.kernels.codegen_cases import CASES
from tests.places import KERNELS, ROOT
from verification.codegen import CHIPS, LENGTHS, Compilation, read_csv

BUDGETS_PATH = Path(__file__).with_name("codegen_budgets.csv")
COMMON_CHIPS = (
    "sm_90",
    "gfx942",
)  # one of each maker; their code is checked whenever tests run, that of the others with `slow`


def is_common(dtype: str, target: str) -> bool:
    return target in COMMON_CHIPS and dtype != "float16"


CHECKS = [
    pytest.param(name, dtype, target, n, marks=() if is_common(dtype, target) else pytest.mark.slow)
    for (name, case), target, n in product(CASES.items(), CHIPS, LENGTHS)
    for dtype in (str(dtype).removeprefix("torch.") for dtype in case.dtypes)
]


@dataclass(frozen=True)
class Budget:
    case: str
    kernel: str
    dtype: str
    target: str
    max_registers: int
    max_shared_bytes: int
    min_width_bytes: str

    def covers(self, row: Compilation) -> bool:
        return all(fnmatch(getattr(row, name), getattr(self, name)) for name in ("case", "kernel", "dtype", "target"))


def read_budgets(path: Path) -> list[Budget]:
    with path.open(newline="") as file:
        return [
            Budget(**record | {key: int(record[key]) for key in ("max_registers", "max_shared_bytes")})
            for record in csv.DictReader(file)
        ]


def by_argument(widths: str) -> dict[str, int]:
    """{"q": 8, "cos": 16} of "q 8, cos 16"."""
    return {name: int(width) for name, width in (entry.split() for entry in widths.split(", "))}


def complaints(row: Compilation, budgets: list[Budget]) -> list[str]:
    """Faults of the code of one kernel, in words. Empty where it keeps its budget."""
    where = f"{row.case}: {row.kernel}, {row.dtype}, {row.target}, n = {row.n} ({row.constants})"
    matching = [budget for budget in budgets if budget.covers(row)]
    if len(matching) != 1:
        return [f"{where}: {len(matching)} budgets in {BUDGETS_PATH.name}, not one"]
    budget, code = matching[0], row.code
    limits = [
        ("registers", code.registers, budget.max_registers),
        ("bytes of shared memory", code.shared_bytes, min(budget.max_shared_bytes, CHIPS[row.target].shared_bytes)),
        ("spilled registers", code.spilled_registers, 0),
        ("bytes of stack", code.stack_bytes, 0),
        ("loads from local memory", code.local_loads, 0),
        ("stores to local memory", code.local_stores, 0),
    ]
    found = [f"{where}: {value} {what}, at most {limit}" for what, value, limit in limits if value > limit]
    stated = by_argument(budget.min_width_bytes)
    for argument, width in by_argument(code.widths).items():
        if argument not in stated:
            found.append(f"{where}: no stated width for {argument}, which has {width} bytes")
        elif width < stated[argument]:
            found.append(f"{where}: {width} bytes an access of {argument}, at least {stated[argument]}")
    return found


def run_codegen(path: Path, cases: str, *arguments: str) -> list[Compilation]:
    """Rows of the command, run in a process of its own: this one has Triton in interpreter mode."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(KERNELS)
    command = [sys.executable, "-m", "verification.codegen", "--cases", cases, "--csv", str(path), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return read_csv(path)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Compilation]:
    return run_codegen(tmp_path_factory.mktemp("codegen") / "facts.csv", "tests.kernels.codegen_cases")


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[Compilation]:
    """Those of chips and types that are common, a third of all."""
    path = tmp_path_factory.mktemp("codegen") / "common.csv"
    return run_codegen(path, "tests.kernels.codegen_common_cases", "--target", *COMMON_CHIPS)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], Compilation]:
    """The kernels of codegen_known by case, target and n."""
    path = tmp_path_factory.mktemp("codegen") / "known.csv"
    rows = run_codegen(path, "tests.kernels.codegen_known", "--target", "sm_90", "gfx942")
    return {(row.case, row.target, row.n): row for row in rows}


@pytest.mark.parametrize(("case", "dtype", "target", "n"), CHECKS)
def test_code_keeps_its_budget(request: pytest.FixtureRequest, case: str, dtype: str, target: str, n: int) -> None:
    compilations = request.getfixturevalue("common" if is_common(dtype, target) else "every")
    rows = [row for row in compilations if (row.case, row.dtype, row.target, row.n) == (case, dtype, target, n)]
    assert rows
    budgets = read_budgets(BUDGETS_PATH)
    found = [complaint for row in rows for complaint in complaints(row, budgets)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "budget", read_budgets(BUDGETS_PATH), ids=lambda b: f"{b.case}-{b.kernel}-{b.dtype}-{b.target}"
)
def test_every_budget_is_used(common: list[Compilation], budget: Budget) -> None:
    """Of kernels that exist, and of arguments that they read or write."""
    rows = [row for row in common if budget.covers(row)]
    accessed = {argument for row in rows for argument in by_argument(row.code.widths)}
    assert set(by_argument(budget.min_width_bytes)) == accessed


@pytest.mark.parametrize("n", LENGTHS)
def test_facts_of_kernels_counted_by_hand(known: dict[tuple[str, str, int], Compilation], n: int) -> None:
    """1024 elements over 4 warps: 8 a thread of NVIDIA's 32, 4 of AMD's 64. Four-byte elements move 16 bytes at a time."""
    expected = {
        ("floats", "sm_90"): ("16×2", "16×2", "x 16, x_out 16"),
        ("floats", "gfx942"): ("16×1", "16×1", "x 16, x_out 16"),
        ("bytes", "sm_90"): ("8×1", "16×2", "x 8, x_out 16"),
        ("bytes", "gfx942"): ("4×1", "16×1", "x 4, x_out 16"),
        ("misaligned", "sm_90"): ("4×8", "16×2", "x 4, x_out 16"),
        ("misaligned", "gfx942"): ("4×4", "16×1", "x 4, x_out 16"),
    }
    codes = {key: known[*key, n].code for key in expected}
    assert {key: (code.loads, code.stores, code.widths) for key, code in codes.items()} == expected


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_kernels_are_specialised_and_traced(known: dict[tuple[str, str, int], Compilation], target: str) -> None:
    assert known["floats", target, 1].constants == "n=1, BLOCK=1024"
    assert known["floats", target, 17].constants == "BLOCK=1024"
    assert known["add up", target, 17].code.widths == "x 16, total_out 16"  # through a pointer that a loop moves


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_complaints_name_what_is_wrong(known: dict[tuple[str, str, int], Compilation], target: str) -> None:
    copy = Budget("*", "*._copy_kernel", "float32", "*", 32, 0, "x 16, x_out 16")
    good, misaligned, spilling = (known[case, target, 17] for case in ("floats", "misaligned", "spilling"))
    assert complaints(good, [copy]) == []

    def words(row: Compilation, *budgets: Budget) -> str:
        return "\n".join(complaints(row, list(budgets)))

    assert "4 bytes an access of x, at least 16" in words(misaligned, copy)
    spills = words(spilling, Budget("*", "*._spilling_kernel", "*", "*", 512, 0, "x 16, x_out 16"))
    assert "bytes of stack, at most 0" in spills
    assert "loads from local memory, at most 0" in spills
    assert "stores to local memory, at most 0" in spills
    assert ("spilled registers" in spills) == (target == "gfx942")
    assert "registers, at most 5" in words(good, Budget("*", "*._copy_kernel", "*", "*", 5, 0, "x 16, x_out 16"))
    assert "no stated width for x_out" in words(good, Budget("*", "*._copy_kernel", "*", "*", 32, 0, "x 16"))
    assert "0 budgets" in words(spilling, copy)
    assert "2 budgets" in words(good, copy, copy)


@pytest.mark.parametrize(("target", "limit"), [("sm_90", 232_448), ("gfx942", 65_536)])
def test_no_budget_passes_the_shared_memory_of_a_chip(
    known: dict[tuple[str, str, int], Compilation], target: str, limit: int
) -> None:
    row = known["floats", target, 17]
    budget = Budget("*", "*", "*", "*", 32, 1 << 20, "x 16, x_out 16")
    for extra, expected in ((0, []), (1, [f"{limit + 1} bytes of shared memory, at most {limit}"])):
        found = complaints(replace(row, code=replace(row.code, shared_bytes=limit + extra)), [budget])
        assert [complaint.partition("): ")[2] for complaint in found] == expected
