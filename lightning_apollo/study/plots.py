"""Pictures of a table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from matplotlib.typing import LineStyleType

from lightning_apollo.study.analysis import View
from lightning_apollo.study.findings import Findings
from lightning_apollo.study.sections import number_text
from lightning_apollo.study.statistics import measure_agreement
from lightning_apollo.study.table import Floats, StudyTable, mean_of_known

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito's, told apart by all
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_IN_LEGEND = 12  # variants that a legend names; with more, the factor's levels stand there

_PANEL = (3.6, 3.4)  # inches
_DPI = 140


def draw_plots(findings: Findings, label: str, folder: Path) -> list[Path]:
    """Every picture that a table has something for; `label` says what a score is."""
    return [
        *_draw_scores(findings, label, folder),
        *_draw_agreement(findings, label, folder),
        *_draw_factors(findings.table, label, folder),
    ]


def _draw_scores(findings: Findings, label: str, folder: Path) -> list[Path]:
    """Score against LLM size and, where there is more than one, against data size; one line a variant, seeds as dots."""
    table, factor = findings.table, findings.factor
    by_size = _lines(table, table.sizes, table.grid[:, :, -1], factor, ("parameters of the LLM", label))
    paths = [_save(by_size, folder / "score_by_size.png")]
    if len(table.data) > 1:
        label_x = f"training samples (LLM {list(table.sizes)[-1]})"
        by_data = _lines(table, table.data, table.grid[:, -1], factor, (label_x, label))
        paths.append(_save(by_data, folder / "score_by_data.png"))
    return paths


def _draw_agreement(findings: Findings, label: str, folder: Path) -> list[Path]:
    """Scores of each smaller size against those of the largest, over all variants and, below, with all removed that
    carries the agreement; none with a single size."""
    table, factor, outlier = findings.table, findings.factor, findings.outlier
    *smaller, largest = table.sizes
    if not smaller:
        return []
    views = list(dict.fromkeys((findings.views[0], findings.views[-1])))
    figure = Figure(figsize=(_PANEL[0] * len(smaller) + 1.2, (_PANEL[1] + 0.3) * len(views)), layout="constrained")
    columns = dict(zip(table.sizes, table.means[:, :, -1].T, strict=True))
    for view, part in zip(views, figure.subfigures(len(views), 1, squeeze=False)[:, 0], strict=True):
        part.suptitle(view.title, fontsize=10, fontweight="bold")
        row = part.subplots(1, len(smaller), squeeze=False, sharey=True)[0]
        for size, axes in zip(smaller, row, strict=True):
            _scatter(axes, findings, view, columns[size], columns[largest])
            axes.set_xlabel(_shown_score(view, label, size), fontsize=9)
        row[0].set_ylabel(_shown_score(view, label, largest), fontsize=9)
        handles = _level_handles(table, factor, "")
        if outlier and outlier != view.outlier:
            handles.append(Line2D([], [], color="#555555", marker="x", linestyle="", label=outlier.name))
        part.legend(handles=handles, title=factor or "variant", loc="outside right center", frameon=False, fontsize=9)
    return [_save(figure, folder / "agreement.png")]


def _draw_factors(table: StudyTable, label: str, folder: Path) -> list[Path]:
    """Mean score of each level of each factor against LLM size, one panel a factor; none without factors."""
    if not table.factors:
        return []
    figure = Figure(figsize=(_PANEL[0] * len(table.factors) + 0.6, _PANEL[1]), layout="constrained")
    panels = figure.subplots(1, len(table.factors), squeeze=False, sharey=True)[0]
    means = table.means[:, :, -1]
    for factor, axes in zip(table.factors, panels, strict=True):
        labels = np.array(table.levels(factor))
        for place, level in enumerate(dict.fromkeys(table.levels(factor))):
            own = mean_of_known(means[labels == level], axis=0)
            style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
            axes.plot(list(table.sizes.values()), own, label=level, markersize=5, **style)
        _name_ticks(axes, table.sizes)
        axes.set_xlabel("parameters of the LLM")
        axes.legend(title=factor, fontsize=8, frameon=False)
        _plain(axes)
    panels[0].set_ylabel(f"{label}, mean")
    return [_save(figure, folder / "factors.png")]


def _lines(
    table: StudyTable, places: Mapping[str, float], grid: Floats, factor: str | None, labels: tuple[str, str]
) -> Figure:
    """One line a variant through the means of (V, places, K) scores, a dot a seed."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    x = np.array(list(places.values()))
    names_variants = len(table.variants) <= MAX_IN_LEGEND
    colours = _colours(table, None if names_variants else factor)
    for number, (name, scores) in enumerate(zip(table.variants, grid, strict=True)):
        means = mean_of_known(scores, axis=1)
        marker = MARKERS[number % len(MARKERS)] if names_variants else "o"
        axes.plot(x, means, color=colours[name], marker=marker, markersize=5, linewidth=1.4, label=name)
        if scores.shape[1] > 1:
            axes.plot(x, scores, color=colours[name], marker=".", markersize=4, linestyle="", alpha=0.6)
    _name_ticks(axes, places)
    if names_variants:
        axes.legend(title="variant", fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    elif factor is not None:
        axes.legend(
            handles=_level_handles(table, factor, "-"),
            title=factor,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )
    if grid.shape[-1] > 1:
        axes.set_title("lines: means over seeds · dots: seeds", fontsize=8, loc="left")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    _plain(axes)
    return figure


def _scatter(axes: Axes, findings: Findings, view: View, x: Floats, y: Floats) -> None:
    """One dot a variant that the view compares, a cross where it is the outlier's, and R² above."""
    table = findings.table
    names = [name for name, is_shown in zip(table.variants, view.mask(table, x, y), strict=True) if is_shown]
    gone = findings.outlier.variants if findings.outlier else frozenset()
    colours = _colours(table, findings.factor)
    x, y = view.columns(table, x, y)
    for name, one, other in zip(names, x, y, strict=True):
        axes.plot(one, other, color=colours[name], marker="x" if name in gone else "o", markersize=5, linestyle="")
    r_squared = measure_agreement(x, y).r_squared
    bounds = "" if r_squared.low is None else f" [{r_squared.low:.2f}, {r_squared.high:.2f}]"
    axes.set_title(f"R² {number_text(r_squared.value)}{bounds}", fontsize=9, loc="right")
    _plain(axes)


def _shown_score(view: View, label: str, size: str) -> str:
    return f"{label}, {size}" + (f"\nminus the mean of its {view.factor}" if view.factor is not None else "")


def _colours(table: StudyTable, factor: str | None) -> dict[str, str]:
    """Variant -> colour: its level's, or its own without a factor."""
    levels = table.levels(factor)
    places = {level: place for place, level in enumerate(dict.fromkeys(levels))}
    return {name: COLOURS[places[level] % len(COLOURS)] for name, level in zip(table.variants, levels, strict=True)}


def _level_handles(table: StudyTable, factor: str | None, line: LineStyleType) -> list[Line2D]:
    """Legend entry of each level of a factor."""
    return [
        Line2D([], [], color=COLOURS[place % len(COLOURS)], marker="o", linestyle=line, label=level)
        for place, level in enumerate(dict.fromkeys(table.levels(factor)))
    ]


def _name_ticks(axes: Axes, places: Mapping[str, float]) -> None:
    """A logarithmic axis with a tick at each place, named, and counted where the name is not the number itself."""
    axes.set_xscale("log")
    counts = [_short(number) for number in places.values()]
    axes.set_xticks(
        list(places.values()),
        [name if name == count else f"{name}\n{count}" for name, count in zip(places, counts, strict=True)],
    )
    axes.xaxis.set_minor_locator(NullLocator())


def _short(number: float) -> str:
    """A count as 0.5B, 1.2M, 64K or 750."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size or (unit == "B" and number >= 1e8):
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    return path
