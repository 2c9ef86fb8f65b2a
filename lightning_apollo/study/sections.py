"""Sections of a study's report, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich.table import Table as RichTable

from lightning_apollo.study.analysis import Noise, Outlier, SizeAgreement, explained
from lightning_apollo.study.statistics import Estimate
from lightning_apollo.study.table import StudyTable

UNDEFINED = "not defined"
AGREEMENT = ("R²", "Spearman", "Kendall tau-b")


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table where there are columns; the first column names the rows."""

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def markdown(self) -> str:
        """The section as Markdown."""
        parts = [f"## {self.title}"]
        if self.text:
            parts.append(self.text)
        if self.columns:
            rule = ["---", *["---:"] * (len(self.columns) - 1)]
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)))
        return "\n\n".join(parts) + "\n"

    def rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def number_text(value: float | None, decimals: int = 3) -> str:
    """A number, or that it is not defined."""
    return UNDEFINED if value is None or not np.isfinite(value) else f"{value:.{decimals}f}"


def show_estimate(estimate: Estimate) -> str:
    """A figure with the bounds of its interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return UNDEFINED if estimate.value is None else f"{estimate.value:.3f}, no interval"
    return f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def agreement_section(title: str, text: str, comparisons: Iterable[SizeAgreement]) -> Section:
    """One row a comparison: R² and rank correlations, with intervals."""
    rows = []
    for comparison in comparisons:
        agreement = comparison.agreement
        figures = (agreement.r_squared, agreement.spearman, agreement.kendall)
        rows.append(
            (
                comparison.view,
                f"{comparison.item}–{comparison.against}",
                str(agreement.num_variants),
                *map(show_estimate, figures),
                _show_p(agreement.p_value),
            )
        )
    return Section(title, text, ("over", "between", "variants", *AGREEMENT, "p"), tuple(rows))


def r_squared_section(title: str, text: str, comparisons: Sequence[SizeAgreement]) -> Section:
    """One row a view, one column a size: R² alone."""
    rows = []
    for view, group in groupby(comparisons, key=lambda comparison: comparison.view):
        own = list(group)
        rows.append(
            (view, str(own[0].agreement.num_variants), *(number_text(c.agreement.r_squared.value) for c in own))
        )
    pairs = dict.fromkeys(f"{comparison.item}–{comparison.against}" for comparison in comparisons)
    return Section(title, text, ("R² over", "variants", *pairs), tuple(rows))


def score_section(title: str, table: StudyTable, decimals: int) -> Section:
    """One row a variant, one column a size: mean and standard deviation over seeds, at the largest data size."""
    rows = []
    for name, by_size in zip(table.variants, table.grid[:, :, -1], strict=True):
        rows.append((name, *(_mean_and_spread(seeds[np.isfinite(seeds)], decimals) for seeds in by_size)))
    text = "Mean over seeds ± standard deviation of one run." if len(table.seeds) > 1 else ""
    return Section(title, text, ("variant", *table.sizes), tuple(rows))


def factor_section(table: StudyTable, outlier: Outlier | None) -> Section:
    """One row a factor, one column a size: eta²."""
    rows = []
    for left_out in dict.fromkeys((None, outlier)):
        for factor in table.factors:
            shares = explained(table, factor, left_out).values()
            rows.append((factor + (f", without {left_out.name}" if left_out else ""), *map(number_text, shares)))
    text = "Share of the variance between variants that the means of a factor's levels have (eta²)."
    return Section("What the differences come from", text, ("factor", *table.sizes), tuple(rows))


def noise_section(noises: Sequence[Noise], decimals: int) -> Section:
    """One row a size and data size."""
    rows = tuple(
        (
            f"{noise.size}, {noise.data}" if noise.data else noise.size,
            number_text(noise.seed_sd, decimals),
            number_text(noise.variant_sd, decimals),
            number_text(noise.noise_share, 2),
        )
        for noise in noises
    )
    text = (
        "Another seed moves a run by the first number (standard deviation, pooled over variants), another design moves the "
        "mean over seeds by the second. The share is what seeds alone would give of the second's variance: near 1, the order "
        "of the variants is chance, and no size can repeat it."
    )
    return Section("How much is noise", text, ("size, data", "seeds", "variants", "noise share"), rows)


def _show_p(p_value: float | None) -> str:
    return "< 0.001" if p_value is not None and p_value < 0.001 else number_text(p_value)


def _mean_and_spread(seeds: np.ndarray, decimals: int) -> str:
    if len(seeds) < 2:
        return f"{seeds[0]:.{decimals}f}" if len(seeds) else "missing"
    return f"{seeds.mean():.{decimals}f} ± {seeds.std(ddof=1):.{decimals}f}"
