"""Compile every kernel through its launcher for four GPUs without having one, and describe its code.

    python -m verification.codegen --cases my_project.codegen_cases [--op softmax] [--target sm_90] [--csv codegen.csv]

The module has CASES, {"softmax": Case(run)}. Launchers get real CPU tensors, so that Triton specialises as on a GPU (an integer 1
becomes a constant, a multiple of 16 is known to be one). These are static facts of the code, never a speed.
"""

import argparse
import csv
import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, product
from pathlib import Path

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from verification.machine_code import MachineCode, read_machine_code

LENGTHS = (1, 17, 4096)  # Triton makes 1 a constant, and knows of 4096 that it is a multiple of 16, of 17 nothing
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """`run(n, dtype)` launches kernels on CPU tensors of that length and dtype. It reads no result, for nothing is computed.

    The target that code is made for is `triton.runtime.driver.active.get_current_target()`.
    """

    run: Callable[[int, torch.dtype], None]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    lengths: tuple[int, ...] = LENGTHS


@dataclass(frozen=True)
class Chip:
    target: GPUTarget
    shared_bytes: int  # that one program may have


CHIPS = {
    "sm_80": Chip(GPUTarget("cuda", 80, 32), 166_912),  # A100
    "sm_90": Chip(GPUTarget("cuda", 90, 32), 232_448),  # H100
    "sm_100": Chip(GPUTarget("cuda", 100, 32), 232_448),  # B200
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 65_536),  # MI300
}


@dataclass(frozen=True)
class Compilation:
    """One compiled kernel: what it was compiled from and what came out. One line of the CSV."""

    case: str
    kernel: str  # "rope_2d._rotate_kernel"
    dtype: str
    n: int
    target: str
    constants: str  # "n=1, BLOCK_ROWS=32"
    code: MachineCode


class CompileOnlyDriver:
    """Stand where Triton's driver of a GPU stands, and can name its target but not launch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_current_target(self) -> GPUTarget:
        return CHIPS[self.name].target

    def get_current_device(self) -> int:
        return list(CHIPS).index(self.name)  # Triton keeps compiled kernels by device: each target needs its own

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compile_only(target: str) -> Iterator[list[CompiledKernel]]:
    """Inside, a launch compiles its kernel for `target`, adds it to this list, and runs nothing."""
    compiled: list[CompiledKernel] = []
    run = JITFunction.run

    def compile_kernel(self: JITFunction, *args: object, warmup: bool, **kwargs: object) -> CompiledKernel:
        kernel = run(self, *args, warmup=True, **kwargs)
        assert isinstance(kernel, CompiledKernel)
        if not any(kernel is other for other in compiled):
            compiled.append(kernel)
        return kernel

    driver.set_active(CompileOnlyDriver(target))
    JITFunction.run = compile_kernel
    try:
        yield compiled
    finally:
        JITFunction.run = run


def compile_cases(cases: Mapping[str, Case], target: str) -> list[Compilation]:
    """Every kernel of every case, for each dtype of the case and each length."""
    kernels: dict[str, CompiledKernel] = {}  # by what Triton tells them apart
    rows: list[tuple[str, str, int, str]] = []
    for name, case in cases.items():
        for dtype, n in product(case.dtypes, case.lengths):
            with compile_only(target) as compiled:
                case.run(n, dtype)
            kernels |= {kernel.hash: kernel for kernel in compiled}
            rows += [(name, str(dtype).removeprefix("torch."), n, kernel.hash) for kernel in compiled]
    codes = dict(zip(kernels, read_machine_code(list(kernels.values())), strict=True))
    return [
        Compilation(name, _label(kernels[key]), dtype, n, target, _constants(kernels[key]), codes[key])
        for name, dtype, n, key in rows
    ]


def _label(kernel: CompiledKernel) -> str:
    return f"{kernel.src.fn.module.rpartition('.')[2]}.{kernel.src.fn.__name__}"


def _constants(kernel: CompiledKernel) -> str:
    """Constants in the code, "BLOCK_ROWS=32, INVERSE=False": the constexpr arguments and integers that are 1."""
    return ", ".join(f"{kernel.src.fn.arg_names[path[0]]}={value}" for path, value in kernel.src.constants.items())


def write_csv(compilations: Sequence[Compilation], path: Path) -> None:
    records = [{**vars(compilation), **vars(compilation.code)} for compilation in compilations]
    columns = [field.name for kind in (Compilation, MachineCode) for field in fields(kind) if field.name != "code"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def read_csv(path: Path) -> list[Compilation]:
    def typed(kind: type, record: Mapping[str, str]) -> dict[str, int | str]:
        names = [field.name for field in fields(kind) if field.name != "code"]
        numbers = {field.name for field in fields(kind) if field.type is int}
        return {name: int(record[name]) if name in numbers else record[name] for name in names}

    with path.open(newline="") as file:
        return [
            Compilation(**typed(Compilation, record), code=MachineCode(**typed(MachineCode, record)))
            for record in csv.DictReader(file)
        ]


def markdown(compilations: Sequence[Compilation]) -> str:
    """A table with one line for all lengths that give equal code."""
    lengths: dict[tuple[str, str, str, str, MachineCode], dict[int, None]] = {}
    for row in compilations:
        lengths.setdefault((row.case, row.kernel, row.dtype, row.target, row.code), {})[row.n] = None
    header = (
        "| case | kernel | dtype | target | n | registers | spills | shared | instructions | loads | stores | widths |"
    )
    lines = [header, "|" + " --- |" * (header.count("|") - 1)]
    for (*names, code), ns in lengths.items():
        spills = code.spilled_registers + code.local_loads + code.local_stores
        numbers = (code.registers, spills, code.shared_bytes, code.instructions)
        cells = [*names, " ".join(map(str, ns)), *map(str, numbers), code.loads, code.stores, code.widths]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--op", help="only the cases whose name begins with this word")
    parser.add_argument("--target", nargs="+", choices=CHIPS, default=list(CHIPS), help="only these GPUs")
    parser.add_argument("--cases", required=True, metavar="MODULE", help="module with CASES")
    parser.add_argument("--jobs", type=int, default=2, help="how many GPUs to compile for at a time")
    parser.add_argument("--csv", type=Path, help="also write every fact here")
    arguments = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: kernels would run in the interpreter, unset it")
    cases = importlib.import_module(arguments.cases).CASES
    if arguments.op:
        cases = {name: case for name, case in cases.items() if name.split()[0] == arguments.op}
    if not cases:
        parser.error(f"{arguments.cases} has no case of {arguments.op}")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # what is told is of this source, not of an earlier one
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork")) as workers:
            compilations = list(chain(*workers.map(partial(compile_cases, cases), arguments.target)))
    if arguments.csv:
        write_csv(compilations, arguments.csv)
    sys.stdout.write(f"{markdown(compilations)}\n")


if __name__ == "__main__":
    main()
