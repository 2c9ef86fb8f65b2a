"""Harness of all benchmarks: side-by-side timing, peak memory and CSV rows with the tables made from them.

One row of a CSV is one measurement: median (p50), 20th and 80th percentile over repeated rounds. In a round every provider runs
once, A B A B, so that a slow minute of the machine hits all of them; ratios are taken round by round.

    python benchmarks/harness.py table step        a table of docs/benchmarks.md, from benchmarks/results/step.csv
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
CACHE = FOLDER / ".cache"  # rendered clips, output of --quick


class Spread(NamedTuple):
    p50: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Measurement:
    """Measurement of a benchmark; `record` adds machine, commit and time. `provider` "A/B" is the ratio of A to B."""

    op: str
    provider: str
    mode: str
    metric: str
    unit: str
    x_name: str
    x_value: str
    spread: Spread
    config: str


@dataclass(frozen=True)
class Row:
    """One line of the CSV, in the order of its columns."""

    op: str
    provider: str
    mode: str
    metric: str
    unit: str
    x_name: str
    x_value: str
    p50: float
    p20: float
    p80: float
    config: str
    device: str  # CPU model and threads
    torch: str
    triton: str
    commit: str
    date: str


@dataclass(frozen=True)
class Column:
    """A column of a Markdown table: the rows of one provider and metric."""

    title: str
    provider: str
    metric: str
    digits: int = 2


TABLES = {
    "step": (
        Column("port, samples/s", "port", "throughput"),
        Column("ours, samples/s", "ours", "throughput"),
        Column("**ours is faster by**", "port/ours", "time_ratio"),
        Column("port, peak MiB", "port", "peak_memory_over_base", 0),
        Column("ours, peak MiB", "ours", "peak_memory_over_base", 0),
        Column("threshold 5.8 on top", "ours/ours_loose", "time_ratio"),
        Column("half the token budget on top", "ours/ours_half", "time_ratio"),
    ),
    "pipeline": (
        Column("ours, s", "ours", "seconds"),
        Column("processor, s", "processor", "seconds"),
        Column("**ours is faster by**", "processor/ours", "time_ratio"),
        Column("ffmpeg, s", "ffmpeg", "seconds"),
        Column("**ours / ffmpeg**", "ours/ffmpeg", "time_ratio"),
        Column("ours to frames, peak MiB", "ours_frames", "peak_memory_over_base", 0),
        Column("ours to patches, peak MiB", "ours", "peak_memory_over_base", 0),
        Column("processor, peak MiB", "processor", "peak_memory_over_base", 0),
    ),
    "opens": (
        Column("exact, s", "exact", "seconds", 3),
        Column("first, s", "first", "seconds", 3),
        Column("table, s", "table", "seconds", 3),
        Column("**a table is faster by**", "exact/table", "time_ratio", 1),
        Column("processor, s", "processor", "seconds", 2),
        Column("**than the processor by**", "processor/table", "time_ratio", 2),
        Column("exact reads, MiB", "exact", "read", 1),
        Column("table reads, MiB", "table", "read", 1),
    ),
    "kernels": (
        Column("definition, s", "definition", "seconds", 3),
        Column("loop over items, s", "loop", "seconds", 3),
        Column("**the definition is faster by**", "loop/definition", "time_ratio"),
    ),
    "kernels_gpu": (
        Column("kernel, ms", "kernel", "milliseconds", 3),
        Column("eager definition", "eager/kernel", "time_ratio"),
        Column("compiled definition", "compiled/kernel", "time_ratio"),
        Column("loop over items", "loop/kernel", "time_ratio"),
        Column("kernel, share of copy bandwidth", "kernel", "share_of_copy_bandwidth"),
    ),
    "plan": (
        Column("planning, s", "ours", "seconds"),
        Column("peak MiB", "ours", "peak_memory_over_base", 0),
        Column("**fill**", "ours", "fill", 3),
        Column("random", "random", "fill", 3),
        Column("length-grouped", "length_grouped", "fill", 3),
        Column("**max/mean cost**", "ours", "imbalance", 3),
        Column("worst step", "ours", "worst_imbalance", 3),
        Column("random", "random", "imbalance", 3),
        Column("length-grouped", "length_grouped", "imbalance", 3),
    ),
    "resume": (
        Column("counted, s", "counted", "seconds"),
        Column("packed, s", "packed", "seconds"),
        Column("replay, s", "replay", "seconds"),
        Column("**replay / counted**", "replay/counted", "time_ratio", 1),
    ),
    "connector_start": tuple(
        Column(f"{init}, {title}", init, metric, digits)
        for title, metric, digits in (
            ("first gradient", "first_gradient_norm", 1),
            ("loss", "loss", 2),
            ("gap", "gap", 2),
        )
        for init in ("default", "he", "calibrated")
    ),
    "cache": (
        Column("decode, ms", "decode", "milliseconds", 1),
        Column("hit, ms", "hit", "milliseconds", 1),
        Column("**a hit is faster by**", "decode/hit", "time_ratio", 1),
        Column("first time / decode", "first/decode", "time_ratio"),
        Column("file, MiB", "file", "disk"),
        Column("kept frames, MiB", "hit", "disk"),
    ),
    "merge": (
        Column("seconds", "ours", "seconds", 1),
        Column("**peak MiB**", "ours", "peak_memory", 0),
        Column("of it over the base", "ours", "peak_memory_over_base", 0),
    ),
}


def spread(values: Sequence[float]) -> Spread:
    """Median, 20th and 80th percentile, interpolated between neighbours."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Spread(statistics.median(values), fifths[0], fifths[3])


def interleaved_seconds(
    providers: Mapping[str, Callable[[], object]], rounds: int, warmup_rounds: int = 1
) -> dict[str, list[float]]:
    """Wall seconds of every provider in every round; in a round each runs once, in order, with the garbage collector off."""
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for number in range(-warmup_rounds, rounds):
        for name, run in providers.items():
            gc.collect()
            gc.disable()
            started = time.perf_counter()
            run()
            elapsed = time.perf_counter() - started
            gc.enable()
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Quotients round by round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def use_one_core() -> None:
    """Pin this process and its children to one core: libraries that choose their own number of threads then choose 1."""
    import torch

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


class PeakMemory:
    """Count from here: `mib_over_base()` is the highest resident size since, less the one at the start (Linux)."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self._base = _status_kib("VmRSS")

    def mib_over_base(self) -> float:
        return (_status_kib("VmHWM") - self._base) / 1024

    def mib(self) -> float:
        """The same with what there was at the start."""
        return _status_kib("VmHWM") / 1024


def run_for_number(script: str, *arguments: str) -> float:
    """The last line that a benchmark script prints in a fresh process, as a number: memory must start from a clean slate."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, *arguments]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def record(measurements: Iterable[Measurement], path: Path, device: str | None = None) -> list[Row]:
    """Write the measurements as a CSV, in place of the one that was there, and return its rows. `device`: a GPU's name."""
    machine = (device or _device(), version("torch"), _version_or_none("triton"), _commit(), date.today().isoformat())
    rows = []
    for m in measurements:
        p50, p20, p80 = (float(f"{value:.5g}") for value in m.spread)
        rows.append(
            Row(m.op, m.provider, m.mode, m.metric, m.unit, m.x_name, m.x_value, p50, p20, p80, m.config, *machine)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(astuple(row) for row in rows)
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that `record` wrote."""
    with path.open(newline="") as file:
        return [Row(**{**line, **{p: float(line[p]) for p in ("p50", "p20", "p80")}}) for line in csv.DictReader(file)]  # pyright: ignore[reportArgumentType] (the three numbers are floats by then)


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table with a line for every (mode, x_value) that has a cell, a dash for what was not measured, and the machine below."""
    cells = {(row.mode, row.x_value, row.provider, row.metric): row for row in rows}
    x_name = rows[0].x_name
    lines = [f"| | {x_name} | " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for mode, x_value in dict.fromkeys((row.mode, row.x_value) for row in rows):
        found = [cells.get((mode, x_value, column.provider, column.metric)) for column in columns]
        if not any(found):
            continue
        texts = [_cell(row, column) for row, column in zip(found, columns, strict=True)]
        lines.append(f"| {mode} | {x_value} | " + " | ".join(texts) + " |")
    row = rows[0]
    lines += ["", f"{row.device}; torch {row.torch}; commit {row.commit}; {row.date}. Medians; ratios round by round."]
    return "\n".join(lines)


def ratio_summary(rows: Iterable[Row]) -> dict[str, float]:
    """Medians of the ratio rows by name, for the JSON line that ends a benchmark's output."""
    return {f"{r.provider} {r.metric} · {r.mode} · {r.x_name} {r.x_value}": r.p50 for r in rows if "/" in r.provider}


def _cell(row: Row | None, column: Column) -> str:
    if row is None:
        return "–"
    return f"{row.p50:.{column.digits}f}" + ("×" if row.unit == "x" else "")


def _status_kib(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")
    return int(match[1])


def _device() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{names[0] if names else 'unknown CPU'}, {os.cpu_count()} cores, 1 thread"


def _version_or_none(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    """The commit of the checkout, with a plus where tracked files differ from it."""
    git = ("git", "-C", str(FOLDER))
    head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False)
    changed = subprocess.run((*git, "diff", "--quiet", "HEAD"), capture_output=True, check=False)
    return head.stdout.strip() + "+" * (changed.returncode == 1) if head.returncode == 0 else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["table"])
    parser.add_argument("benchmark", choices=sorted(TABLES))
    arguments = parser.parse_args()
    print(markdown(read_rows(RESULTS / f"{arguments.benchmark}.csv"), TABLES[arguments.benchmark]))


if __name__ == "__main__":
    main()
