"""Print the bytes that each kernel moves over the least possible.

    python -m verification.traffic --cases my_project.traffic_cases [CASE ...] [--csv PATH]

The module has CASES, {"softmax": run}: each launches kernels on CPU tensors with the tiles of a GPU. Its NOTES, where it has them,
are {("softmax", "_kernel", "x"): "why x moves more than it must"}.

Counted in Triton's interpreter in sectors of 32 bytes, each once within one access of one program. It says nothing of speed, and
leaves out the caches between accesses, which serve some of it.
"""

import os

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported

import argparse
import csv
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from verification import faithful_bfloat16
from verification.sanitizer import Sanitizer

ALLOWED_RATIO = 1.10
BULK_SHARE = 0.05  # of the bytes of a case


@dataclass(frozen=True)
class Row:
    """One argument of one kernel in one case."""

    op: str  # the name of the case
    kernel: str
    argument: str
    minimum_bytes: int
    sector_bytes: int
    ratio: float
    share: float  # of the sector bytes of the case
    active_lanes: float  # of all lanes that loaded or stored
    note: str


Notes = Mapping[tuple[str, str, str], str]  # (case, kernel, argument) -> why it moves more than it must


def measure(op: str, run: Callable[[], None], notes: Notes) -> list[Row]:
    """Run a case under the sanitizer; one row for each argument that its kernels touch."""
    with Sanitizer() as watch:
        run()
    lines = watch.traffic()
    total = sum(line.sector_bytes for line in lines)
    return [
        Row(
            op=op,
            kernel=line.kernel,
            argument=line.argument,
            minimum_bytes=line.distinct_bytes,
            sector_bytes=line.sector_bytes,
            ratio=round(line.ratio, 3),
            share=round(line.sector_bytes / total, 3),
            active_lanes=round(line.active_share, 3),
            note=notes.get((op, line.kernel, line.argument), ""),
        )
        for line in lines
    ]


def needs_note(row: Row) -> bool:
    """True if a bulk argument moves too much."""
    return row.share > BULK_SHARE and row.ratio > ALLOWED_RATIO


def as_markdown(rows: Sequence[Row]) -> str:
    """A table with aligned columns, numbers to the right."""
    names = [field.name.replace("_", " ") for field in fields(Row)]
    cells = [names, *([str(value) for value in astuple(row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [field.type in (int, float) for field in fields(Row)]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines = [
        " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        for line in (cells[0], rule, *cells[1:])
    ]
    return "".join(f"| {line} |\n" for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(map(astuple, rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m verification.traffic", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="CASE", help="of CASES; all where none is given")
    parser.add_argument("--cases", required=True, metavar="MODULE", help="module with CASES and perhaps NOTES")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args(arguments)
    module = importlib.import_module(options.cases)
    cases, notes = module.CASES, getattr(module, "NOTES", {})
    unknown = set(options.names) - set(cases)
    if unknown:
        parser.error(f"no case for {', '.join(sorted(unknown))}: choose from {', '.join(cases)}")
    faithful_bfloat16.install()
    rows = [row for name in options.names or cases for row in measure(name, cases[name], notes)]
    sys.stdout.write(as_markdown(rows))
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
