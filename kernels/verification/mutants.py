"""Plant faults in the kernels one at a time, and report the test that notices each.

    python -m verification.mutants --package my_project/ops --tests tests/ops [--op softmax] [--jobs 2] [--csv mutants.csv]

An op is a file of the package with Triton functions whose names end in _kernel. Its faults stand in MUTANTS of mutants_<op>.py and
meet the tests of test_<op>.py, but those marked slow. Each runs in a fork of this
process, which has torch and Triton loaded but not the package, over a copy of the package with that one fault. The exit status is 1
where a fault survives or a kernel has fewer than ten.
"""

import argparse
import ast
import csv
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from verification.trials import Trial, run_trials

LEAST_MUTANTS = 10  # of a kernel
BASELINE_LIMIT_SECONDS = 600.0
LOADED_ONCE = ("torch", "torch._dynamo.testing", "triton", "triton.runtime.interpreter")


@dataclass(frozen=True)
class Mutant:
    """`old`, which occurs once in the function `kernel` of the op's file, becomes `new`."""

    kernel: str
    fault: str
    old: str
    new: str


@dataclass(frozen=True)
class Result:
    """One line of the CSV."""

    op: str
    kernel: str
    fault: str
    verdict: str  # of trials.Verdict
    test: str
    error: str
    seconds: float


@dataclass(frozen=True)
class Op:
    """An op's file, its tests and its mutants."""

    name: str
    package: Path
    test_file: Path
    mutants: tuple[Mutant, ...]

    @classmethod
    def find(cls, name: str, package: Path, tests: Path) -> "Op":
        table = tests / f"mutants_{name}.py"
        mutants = runpy.run_path(str(table))["MUTANTS"] if table.exists() else ()
        return cls(name, package, tests / f"test_{name}.py", mutants)

    @property
    def source(self) -> str:
        return (self.package / f"{self.name}.py").read_text()

    @property
    def kernels(self) -> list[str]:
        """Of the mutants, and those of the file that have none."""
        return list(dict.fromkeys([*kernels_of(self.source), *(mutant.kernel for mutant in self.mutants)]))

    def trial(self, name: str, source: str, limit_seconds: float) -> Trial:
        return Trial(f"{self.name}, {name}", self.package, self.name, source, self.test_file, limit_seconds)


def kernels_of(source: str) -> list[str]:
    """Names of the Triton functions that are launched: they end in _kernel."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [
        f.name for f in functions if f.name.endswith("_kernel") and "triton.jit" in map(ast.unparse, f.decorator_list)
    ]


def plant(source: str, mutant: Mutant) -> str:
    """The source with the fault in it. Raises ValueError unless the mutant fits in exactly one place."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    spans = [(f.lineno - 1, f.end_lineno) for f in functions if f.name == mutant.kernel]
    lines = source.splitlines(keepends=True)
    body = "".join("".join(lines[first:last]) for first, last in spans)
    if len(spans) != 1 or body.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.fault}: {mutant.old!r} occurs {body.count(mutant.old)} times in {mutant.kernel}, not once"
        )
    (first, last), faulty = spans[0], body.replace(mutant.old, mutant.new)
    ast.parse(faulty)  # what is no Python proves nothing about the tests
    return "".join([*lines[:first], faulty, *lines[last:]])


def run_mutants(ops: Sequence[Op], jobs: int) -> list[Result]:
    """Run every op as it stands, which must pass and set the time limit of its mutants, then all mutants."""
    planted = [(op, mutant, plant(op.source, mutant)) for op in ops for mutant in op.mutants]
    limits: dict[str, float] = {}
    baselines = [op.trial("as it stands", op.source, BASELINE_LIMIT_SECONDS) for op in ops]
    for number, verdict in run_trials(baselines, jobs):
        if verdict.kind != "survived":
            raise SystemExit(f"{ops[number].name}: {verdict.test} fails without a fault: {verdict.error}")
        limits[ops[number].name] = 30 + 5 * verdict.seconds
        sys.stderr.write(f"{ops[number].name} passes as it stands ({verdict.seconds} s)\n")
    results: dict[int, Result] = {}
    trials = [op.trial(mutant.fault, source, limits[op.name]) for op, mutant, source in planted]
    for number, verdict in run_trials(trials, jobs):
        op, mutant, _ = planted[number]
        results[number] = Result(op.name, mutant.kernel, mutant.fault, *astuple(verdict))
        progress = f"[{len(results)}/{len(trials)}] {op.name}.{mutant.kernel}, {mutant.fault}"
        sys.stderr.write(f"{progress}: {verdict.kind} {verdict.test} ({verdict.seconds} s)\n")
    return [results[number] for number in sorted(results)]


def report(ops: Sequence[Op], results: Sequence[Result]) -> tuple[str, bool]:
    """A table and a summary line for each kernel; and whether each has enough faults, none of which survived."""
    lines, is_good = [], True
    for name, kernel in [(op.name, kernel) for op in ops for kernel in op.kernels]:
        rows = [result for result in results if (result.op, result.kernel) == (name, kernel)]
        num_killed = sum(row.verdict != "survived" for row in rows)
        is_good &= num_killed == len(rows) >= LEAST_MUTANTS
        lines += ["| fault | killed by | seconds |", "| --- | --- | --- |", *map(_table_line, rows), ""]
        too_few = f"; a kernel needs {LEAST_MUTANTS}" if len(rows) < LEAST_MUTANTS else ""
        lines += [f"{name}.{kernel}: {num_killed} of {len(rows)} killed{too_few}", ""]
    return "\n".join(lines), is_good


def _table_line(row: Result) -> str:
    words = [row.verdict if row.verdict != "killed" else "", row.test, row.error]
    killer = ": ".join(filter(None, words)).replace("|", "\\|")
    return f"| {row.fault} | {killer} | {row.seconds} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--op", help="only this op; all that have kernels otherwise")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    parser.add_argument("--csv", type=Path, help="also write the results here")
    parser.add_argument("--package", type=Path, required=True, help="folder of the package with the ops")
    parser.add_argument("--tests", type=Path, required=True, help="folder of their tests and mutants")
    arguments = parser.parse_args()
    package, tests = arguments.package.resolve(), arguments.tests.resolve()
    names = [p.stem for p in sorted(package.glob("*.py")) if kernels_of(p.read_text())]
    ops = [Op.find(name, package, tests) for name in ([arguments.op] if arguments.op else names)]
    _load_once(package.name)
    results = run_mutants(ops, arguments.jobs)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(Result))
            writer.writerows(map(astuple, results))
    text, is_good = report(ops, results)
    sys.stdout.write(text)
    return 0 if is_good else 1


def _load_once(package: str) -> None:
    """Import what every fork needs, and nothing of the package under test."""
    os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for name in LOADED_ONCE:
        importlib.import_module(name)
    if importlib.util.find_spec("hypothesis"):  # tests may do without
        importlib.import_module("hypothesis.strategies")
        from hypothesis import Phase, settings

        settings.register_profile("no shrinking", phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
        settings.load_profile("no shrinking")  # a smaller example of a failure would only cost time
    assert package not in sys.modules


if __name__ == "__main__":
    sys.exit(main())
