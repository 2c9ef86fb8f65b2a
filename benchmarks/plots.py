"""Pictures of the benchmarks, from their CSV alone.

python benchmarks/plots.py benchmarks/results/step.csv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from harness import Row, read_rows
from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = ("#8c8c8c", "#1f77b4", "#7fb3d8", "#2ca02c", "#ff7f0e")
PANELS = {
    "step": ("throughput", "peak_memory_over_base"),
    "file_to_patches": ("seconds", "peak_memory_over_base"),
    "kernels": ("seconds", "milliseconds", "time_ratio"),
    "plan": ("imbalance", "fill", "seconds"),
    "resume": ("seconds",),
    "connector_start": ("visual_scale", "first_gradient_norm", "loss", "gap"),
    "cache": ("milliseconds", "time_ratio", "disk"),
    "merge": ("seconds", "peak_memory", "peak_memory_over_base"),
}
LOGARITHMIC = {"cache"}  # what spans so much that the small bars could not be seen


def plot(path: Path) -> Path:
    """Write a PNG beside the CSV: a panel for each metric, a group of bars for each (mode, x), whiskers from p20 to p80."""
    rows = read_rows(path)
    measured = {row.metric for row in rows}
    metrics = [metric for metric in PANELS[rows[0].op] if metric in measured]
    figure, axes = pyplot.subplots(
        1, len(metrics), figsize=(6.4 * len(metrics), 4.2), layout="constrained", squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        _panel(axis, [row for row in rows if row.metric == metric])
    figure.suptitle(
        f"{rows[0].op.replace('_', ' ')} · {rows[0].device} · torch {rows[0].torch} · commit {rows[0].commit}",
        fontsize=9,
    )
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)
    return picture


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
    providers = list(dict.fromkeys(row.provider for row in rows))
    groups = list(dict.fromkeys((row.mode, row.x_value) for row in rows))
    width = 0.8 / len(providers)
    for number, provider in enumerate(providers):
        own = [row for row in rows if row.provider == provider]
        places = [groups.index((row.mode, row.x_value)) + (number - (len(providers) - 1) / 2) * width for row in own]
        heights = [row.p50 for row in own]
        whiskers = [[row.p50 - row.p20 for row in own], [row.p80 - row.p50 for row in own]]
        axis.bar(
            places,
            heights,
            width,
            yerr=whiskers,
            label=provider,
            color=COLOURS[number % len(COLOURS)],
            ecolor="#333333",
        )
    labels = [f"{mode}\n{rows[0].x_name} {x_value}" for mode, x_value in groups]
    crowded = {"rotation": 40, "ha": "right"} if len(groups) > 6 else {}
    axis.set_xticks(range(len(groups)), labels, fontsize=8, **crowded)
    axis.set_ylabel(f"{rows[0].metric.replace('_', ' ')} ({rows[0].unit})")
    if rows[0].op in LOGARITHMIC:
        axis.set_yscale("log")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(plot(Path(argument)))
