"""The mutation run: killed, surviving and unusable trials."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.places import KERNELS, ROOT
from verification.mutants import Mutant, Op, Result, kernels_of, plant, report

OP = """
def halve_kernel(x):
    half = x / 2
    return half + 0
"""

TESTS = """
from toy.halve import halve_kernel

def test_anything():
    pass

def test_halves():
    assert halve_kernel(6) == 3, "six is | not three twice"
"""

MUTANTS = """
from verification.mutants import Mutant

MUTANTS = (
    Mutant("halve_kernel", "a third", "x / 2", "x / 3"),
    Mutant("halve_kernel", "minus nothing", "half + 0", "half - 0"),
    Mutant("halve_kernel", "dies", "x / 2", "__import__('os').abort()"),
)
"""

RUN_ONE = """
import sys
from pathlib import Path
from verification.trials import Trial, run_trials

package, test_file, source, limit_seconds = sys.argv[1:]
for _, verdict in run_trials([Trial("toy", Path(package), "halve", source, Path(test_file), float(limit_seconds))], 1):
    print(verdict.kind, verdict.test, verdict.error, sep="|")
"""

RUN_MUTANTS = """
import sys
from pathlib import Path
from verification.mutants import Op, run_mutants

run_mutants([Op.find("halve", Path(sys.argv[1]), Path(sys.argv[2]))], 1)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with a package of one op, its tests and its mutants."""
    (tmp_path / "source/toy").mkdir(parents=True)
    files = {
        "source/toy/__init__.py": "",
        "source/toy/halve.py": OP,
        "test_halve.py": TESTS,
        "mutants_halve.py": MUTANTS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(KERNELS)}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def run_one(toy: Path, tests: str, source: str = OP, limit_seconds: int = 600) -> subprocess.CompletedProcess[str]:
    (toy / "test_halve.py").write_text(tests)
    return run_python("-c", RUN_ONE, str(toy / "source/toy"), str(toy / "test_halve.py"), source, str(limit_seconds))


def test_a_survivor_is_told_and_fails_the_run(toy: Path) -> None:
    results = toy / "results.csv"
    options = ["--op", "halve", "--package", str(toy / "source/toy"), "--tests", str(toy), "--csv", str(results)]
    run = run_python("-m", "verification.mutants", *options)
    assert run.returncode == 1, run.stderr
    with results.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fault"], row["verdict"], row["test"]) for row in rows] == [
        ("a third", "killed", "test_halves"),
        ("minus nothing", "survived", ""),
        ("dies", "crash", "test_halves"),
    ]
    assert r"| a third | test_halves: AssertionError: six is \| not three twice | " in run.stdout
    assert "| minus nothing | survived | " in run.stdout
    assert "| dies | crash: test_halves: SIGABRT | " in run.stdout
    assert run.stdout.rstrip().endswith("halve.halve_kernel: 2 of 3 killed; a kernel needs 10")
    assert "[3/3] halve.halve_kernel, " in run.stderr


def test_an_op_that_fails_as_it_stands_is_refused(toy: Path) -> None:
    (toy / "source/toy/halve.py").write_text(OP.replace("x / 2", "x // 1"))
    (toy / "mutants_halve.py").write_text("MUTANTS = ()")
    run = run_python("-c", RUN_MUTANTS, str(toy / "source/toy"), str(toy))
    assert run.returncode == 1
    assert run.stderr == "halve: test_halves fails without a fault: AssertionError: six is | not three twice\n"


def test_a_hang_is_a_timeout(toy: Path) -> None:
    run = run_one(toy, "import time\nfrom toy.halve import halve_kernel\ntime.sleep(600)\n", limit_seconds=3)
    assert run.stdout == "timeout||more than 3 s\n"


def test_the_path_of_the_tests_does_not_hide_the_copy(toy: Path) -> None:
    """As pytest's setting `pythonpath` and its folders of tests do."""
    tests = f"import sys\nsys.path.insert(0, {str(toy / 'source')!r})\n{TESTS}"
    run = run_one(toy, tests, OP.replace("x / 2", "x / 3"))
    assert run.stdout.startswith("killed|test_halves|"), run.stderr


OTHER_COPY = """
import importlib.util
import sys

spec = importlib.util.spec_from_file_location("toy.halve", {path!r})
sys.modules["toy.halve"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["toy.halve"])
"""


def test_tests_of_another_copy_are_refused(toy: Path) -> None:
    tests = OTHER_COPY.format(path=str(toy / "source/toy/halve.py")) + TESTS
    run = run_one(toy, tests, OP.replace("x / 2", "x / 3"))
    assert run.returncode == 1
    assert "not the changed copy in" in run.stderr


@pytest.mark.parametrize("tests", ["def test_imports_nothing():\n    pass\n", "from toy import halve"])
def test_a_run_without_a_test_of_the_op_is_refused(toy: Path, tests: str) -> None:
    run = run_one(toy, tests)
    assert run.returncode == 1
    assert "the tests did not run" in run.stderr


def test_a_fault_that_breaks_the_import_is_killed(toy: Path) -> None:
    source = OP + "\nraise ArithmeticError('no such kernel')\n"
    assert run_one(toy, TESTS, source).stdout == "killed|test_halve.py|ArithmeticError: no such kernel\n"


def test_a_mutant_fits_in_one_place() -> None:
    source = f"{OP}\ndef other(x):\n    return x / 2\n"
    assert plant(source, Mutant("other", "f", "x / 2", "x")) == source[: source.rindex("x / 2")] + "x\n"
    for kernel, old, message in [
        ("other", "x / 4", "0 times"),
        ("halve_kernel", "half", "2 times"),
        ("none", "x", "0 times"),
    ]:
        with pytest.raises(ValueError, match=message):
            plant(source, Mutant(kernel, "f", old, "y"))
    with pytest.raises(SyntaxError):
        plant(source, Mutant("other", "f", "x / 2", "x /"))


def test_a_kernel_without_mutants_fails_the_run(tmp_path: Path) -> None:
    source = "@triton.jit\ndef _helper(x):\n    return x\n\n\n@triton.jit\ndef _fwd_kernel(x):\n    _helper(x)\n"
    assert kernels_of(source) == ["_fwd_kernel"]
    (tmp_path / "op.py").write_text(source)
    assert report([Op.find("op", tmp_path, tmp_path)], []) == (
        "| fault | killed by | seconds |\n| --- | --- | --- |\n\nop._fwd_kernel: 0 of 0 killed; a kernel needs 10\n",
        False,
    )


def test_ten_killed_pass(tmp_path: Path) -> None:
    (tmp_path / "op.py").write_text(OP)
    mutants = tuple(Mutant("halve_kernel", str(number), "x", "y") for number in range(10))
    op = replace(Op.find("op", tmp_path, tmp_path), mutants=mutants)
    killed = [Result("op", "halve_kernel", mutant.fault, "killed", "test", "error", 1.0) for mutant in mutants]
    text, is_good = report([op], killed)
    assert is_good
    assert text.endswith("op.halve_kernel: 10 of 10 killed\n")
    assert not report([op], killed[:9])[1]
    assert not report([op], [*killed[:9], replace(killed[9], verdict="survived")])[1]


@pytest.mark.slow
def test_every_fault_in_rope_2d_is_noticed() -> None:
    """One op, so that a proof stays short; `make mutants` plants those of all."""
    places = ["--package", str(KERNELS / "apollo_kernels"), "--tests", str(ROOT / "tests/kernels")]
    done = run_python("-m", "verification.mutants", *places, "--op", "rope_2d")
    assert done.returncode == 0, done.stdout + done.stderr
