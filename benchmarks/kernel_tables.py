"""The tables of kernels/README.md, from the CSV files in benchmarks/results alone.

python benchmarks/kernel_tables.py        writes them between their marks
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import harness

README = Path(__file__).parents[1] / "kernels" / "README.md"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
BULK_SHARE = 0.05  # of a case's bytes: smaller arguments are left out of the traffic table

Line = dict[str, str]


def mutants(lines: Sequence[Line]) -> str:
    """Planted and noticed faults of every kernel."""
    rows = []
    for op, kernel in _distinct(lines, "op", "kernel"):
        verdicts = [line["verdict"] for line in lines if (line["op"], line["kernel"]) == (op, kernel)]
        noticed = sum(verdict != "survived" for verdict in verdicts)
        rows.append((op, f"`{kernel}`", len(verdicts), noticed))
    total = ("**all**", "", sum(row[2] for row in rows), sum(row[3] for row in rows))
    return _markdown(("file", "kernel or helper", "planted", "noticed"), [*rows, total])


def codegen(lines: Sequence[Line]) -> str:
    """Registers on each target, the most over all lengths; local memory and shared memory, the most over targets."""
    rows = []
    for case, kernel, dtype in _distinct(lines, "case", "kernel", "dtype"):
        own = [line for line in lines if (line["case"], line["kernel"], line["dtype"]) == (case, kernel, dtype)]
        registers = [_most(own, "registers", target) for target in TARGETS]
        local = sum(
            int(line[name])
            for line in own
            for name in ("stack_bytes", "local_loads", "local_stores", "spilled_registers")
        )
        widths = next(line["widths"] for line in own if (line["target"], line["n"]) == ("sm_90", "4096"))
        name = f"`{kernel.split('.')[1]}`"
        rows.append((case, name, dtype, *registers, local, _most(own, "shared_bytes"), widths))
    head = ("case", "kernel", "dtype", *(f"registers {target}" for target in TARGETS), "local memory", "shared bytes")
    return _markdown((*head, "narrowest access of each argument, bytes (sm_90)"), rows)


def traffic(lines: Sequence[Line]) -> str:
    """Sector bytes over least bytes of every bulk argument."""
    rows = [
        (line["op"], f"`{line['kernel']}`", f"`{line['argument']}`", f"{float(line['ratio']):.2f}", line["note"])
        for line in lines
        if float(line["share"]) > BULK_SHARE
    ]
    return _markdown(("case", "kernel", "argument", "moved / least", "why above 1.10"), rows)


def _distinct(lines: Sequence[Line], *names: str) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(line[name] for name in names) for line in lines))


def _most(lines: Sequence[Line], name: str, target: str | None = None) -> int:
    return max(int(line[name]) for line in lines if target in (None, line["target"]))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _speed() -> str:
    return harness.markdown(harness.read_rows(harness.RESULTS / "kernels.csv"), harness.TABLES["kernels"])


def _static(name: str, table: Callable[[Sequence[Line]], str]) -> str:
    with (harness.RESULTS / f"kernels_{name}.csv").open(newline="") as file:
        return table(list(csv.DictReader(file)))


def filled(readme: str) -> str:
    """The README with every table as the CSV files have it."""
    tables = {table.__name__: _static(table.__name__, table) for table in (mutants, codegen, traffic)}
    for mark, table in {**tables, "bench:kernels": _speed()}.items():
        section = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
        readme, count = section.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", readme)
        if count != 1:
            raise ValueError(f"{README.name} has {count} sections <!-- {mark} -->, not 1")
    return readme


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
