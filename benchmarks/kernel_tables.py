"""The tables of kernels/README.md, from the CSV files in benchmarks/results alone.

python benchmarks/kernel_tables.py        writes them between their marks
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import harness

README = Path(__file__).parents[1] / "kernels" / "README.md"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
GPU_RESULTS = harness.RESULTS / "kernels_gpu.csv"
BULK_SHARE = 0.05  # of a case's bytes: smaller arguments are left out of the traffic table

# What each op computes, its kernels, its backward, and where the model uses it.
OPS = {
    "pack_patches": (
        "flat uint8 pixels of V items to normalised patches in block order, with (row, column) and segment of each",
        "`_pack_kernel`, one launch",
        "– (bytes)",
        "`VideoLMM.encode`",
    ),
    "rope_2d": (
        "q and k turned by the angles of row and column, split-half layout, in float32",
        "`_rotate_kernel`",
        "the same kernel turns back",
        "`EncoderAttention`",
    ),
    "similarity_keep": (
        "which tokens changed since the previous or the last kept frame, by threshold or by budget",
        "`_change_kernel`, `_threshold_kernel`, `_budget_kernel`",
        "– (bits)",
        "`models/reduce.py`, `kind: diff_fp`",
    ),
    "merge_compact": (
        "mean of m×m patches and removal of dropped tokens",
        "`_fwd_kernel`",
        "`_bwd_kernel`",
        "`models/reduce.py`",
    ),
    "merge_similar": (
        "runs of tokens at one place with cosine ≥ threshold to their first one, as their mean",
        "`_runs_kernel`, `_mean_fwd_kernel`",
        "`_mean_bwd_kernel`",
        "`models/reduce.py`, `kind: merge_similar`",
    ),
}

Line = dict[str, str]


def ops(code: Sequence[Line], moved: Sequence[Line]) -> str:
    """One line for each op with its static figures."""
    rows = []
    for op, description in OPS.items():
        registers = _most([line for line in code if line["case"].split()[0] == op], "registers", "sm_90")
        bulk = [line for line in moved if line["op"].split(",")[0] == op and float(line["share"]) > BULK_SHARE]
        ratio = max(float(line["ratio"]) for line in bulk)
        rows.append((f"`{op}`", *description, registers, f"{ratio:.2f}", "yes" if GPU_RESULTS.is_file() else "not yet"))
    head = ("op", "computes", "kernels", "backward", "where it is used", "registers", "moved / least", "run on a GPU")
    return _markdown(head, rows)


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
    """Registers on each target and shared memory, the most over all lengths; local memory, the sum."""
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


def _measured(name: str) -> str:
    return harness.markdown(harness.read_rows(harness.RESULTS / f"{name}.csv"), harness.TABLES[name])


def _lines(name: str) -> list[Line]:
    with (harness.RESULTS / f"kernels_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def filled(readme: str) -> str:
    """The README with every table as the CSV files have it."""
    code, moved = _lines("codegen"), _lines("traffic")
    tables = {
        "ops": ops(code, moved),
        "mutants": mutants(_lines("mutants")),
        "codegen": codegen(code),
        "traffic": traffic(moved),
        "bench:kernels": _measured("kernels"),
        "bench:kernels_gpu": _measured("kernels_gpu") if GPU_RESULTS.is_file() else "Not measured yet.",
    }
    for mark, table in tables.items():
        section = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
        readme, count = section.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", readme)
        if count != 1:
            raise ValueError(f"{README.name} has {count} sections <!-- {mark} -->, not 1")
    return readme


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
