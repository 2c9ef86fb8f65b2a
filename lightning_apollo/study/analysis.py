"""Rank agreement of design variants between sizes, and the factors behind it.

V variants · S LLM sizes, smallest first
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.study.statistics import Agreement, is_constant, measure_agreement
from lightning_apollo.study.table import Floats, StudyTable, mean_of_known

THRESHOLD = 0.8  # Kendall's tau with the largest, from which on a smaller one ranks like it
MIN_LEVELS = 5  # below this many, no level can be told to stand apart from the others
FAR_BELOW = 3.0  # robust standard deviations
_ROUNDING = 1e-9  # of a tau that is the threshold itself
_MAD_TO_SD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation

OUTLIER_RULE = (
    f"a level that is the lowest at every size and there lies more than {FAR_BELOW:g} robust standard deviations "
    f"({_MAD_TO_SD:g} × the median absolute deviation) below the median of all levels; at least {MIN_LEVELS} levels are needed"
)
SMALLEST_RULE = (
    "the smallest one whose Kendall's tau-b with the largest is at least {threshold:g}, with the lower bound of its interval "
    "above 0, and for which the same holds of every one between it and the largest"
)


@dataclass(frozen=True)
class Outlier:
    """A failed level of a factor, and the variants that have it."""

    name: str
    variants: frozenset[str]


@dataclass(frozen=True)
class View:
    """Variants that are compared, and the factor whose level means are taken off at each size."""

    title: str
    factor: str | None = None
    outlier: Outlier | None = None
    drops_first: bool = False  # whether the outlier is out before the means are taken

    def columns(self, table: StudyTable, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Two columns (V,) of scores as this view shows them, over the variants that both of them have."""
        is_shown = self.mask(table, x, y)
        is_used = is_shown if self.drops_first else np.isfinite(x + y)
        if self.factor is not None:
            x, y = (_without_level_means(column, table.levels(self.factor), is_used) for column in (x, y))
        return x[is_shown], y[is_shown]

    def groups(self, table: StudyTable, x: Floats, y: Floats) -> list[str] | None:
        """The factor's level of each of those variants; None where no means are taken off."""
        if self.factor is None:
            return None
        return [
            level for level, is_shown in zip(table.levels(self.factor), self.mask(table, x, y), strict=True) if is_shown
        ]

    def mask(self, table: StudyTable, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """(V,) which variants are compared: those that both columns have, but for the outlier."""
        gone = self.outlier.variants if self.outlier else frozenset()
        return np.isfinite(x + y) & np.array([name not in gone for name in table.variants])


@dataclass(frozen=True)
class SizeAgreement:
    """Agreement of the scores of one size, or data size, with those of a larger one."""

    view: str
    item: str
    against: str
    agreement: Agreement


@dataclass(frozen=True)
class Noise:
    """Effect of seeds on the scores of one size at one data size, beside that of variants; None where it is not defined."""

    size: str
    data: str
    seed_sd: float | None  # of one run, pooled over the variants
    variant_sd: float | None  # of the variants' means
    noise_share: float | None  # of the variance of those means, what seeds alone would give; at most 1


def views(factor: str | None, outlier: Outlier | None) -> list[View]:
    """All variants, without the outlier, without the factor's means, and without both in either order."""
    chosen = [View("all variants")]
    if outlier:
        chosen.append(View(f"without {outlier.name}", outlier=outlier))
    if factor is not None:
        chosen.append(View(f"means of each {factor} removed", factor))
    if outlier and factor is not None:
        chosen.append(View(f"without {outlier.name}, then means of each {factor} removed", factor, outlier, True))
        chosen.append(View(f"means of each {factor} removed, then without {outlier.name}", factor, outlier))
    return chosen


def compare_sizes(table: StudyTable, view: View, *, all_pairs: bool = False) -> list[SizeAgreement]:
    """Each size, the largest pairs first, against the largest, or against every larger one; at the largest data size."""
    columns = dict(zip(table.sizes, table.means[:, :, -1].T, strict=True))
    return _compare(table, view, columns, all_pairs)


def compare_data(table: StudyTable, view: View) -> list[SizeAgreement]:
    """Each data size against the largest, with the largest LLM."""
    return _compare(table, view, dict(zip(table.data, table.means[:, -1, :].T, strict=True)), False)


def compare_within(table: StudyTable, factor: str, outlier: Outlier | None) -> list[SizeAgreement]:
    """Each size against the largest among the variants of one level of a factor, level by level."""
    found = []
    for level in dict.fromkeys(table.levels(factor)):
        others = {name for name, own in table.factors[factor].items() if own != level}
        gone = Outlier("", frozenset(others | (outlier.variants if outlier else set())))
        without = f", without {outlier.name}" if outlier else ""
        found += compare_sizes(table, View(f"{factor} {level} alone{without}", outlier=gone, drops_first=True))
    return found


def smallest_like_largest(comparisons: Sequence[SizeAgreement], threshold: float = THRESHOLD) -> str | None:
    """The item by SMALLEST_RULE, from comparisons with the largest that start at the next smaller one; None for none."""
    smallest = None
    for comparison in comparisons:
        tau = comparison.agreement.kendall
        if tau.value is None or tau.low is None or tau.value < threshold - _ROUNDING or tau.low <= 0:
            break
        smallest = comparison.item
    return smallest


def find_outlier(table: StudyTable, factor: str | None) -> Outlier | None:
    """The failed level of a factor by OUTLIER_RULE, at the largest data size; without a factor, the failed variant."""
    levels = list(dict.fromkeys(table.levels(factor)))
    means = _level_means(table.means[:, :, -1], table.levels(factor))  # (levels, S)
    if len(levels) < MIN_LEVELS or not np.isfinite(means).all():
        return None
    lowest = set(means.argmin(axis=0).tolist())
    if len(lowest) > 1:
        return None
    place = lowest.pop()
    median = np.median(means, axis=0)
    spread = _MAD_TO_SD * np.median(np.abs(means - median), axis=0)
    return outlier_of(table, factor, levels[place]) if (median - means[place] > FAR_BELOW * spread).all() else None


def outlier_of(table: StudyTable, factor: str | None, level: str) -> Outlier:
    """The variants that have a level of a factor, as what is left out."""
    names = (name for name, own in zip(table.variants, table.levels(factor), strict=True) if own == level)
    return Outlier(f"{factor or 'variant'} {level}", frozenset(names))


def dominant_factor(table: StudyTable, outlier: Outlier | None) -> str | None:
    """The factor with the largest eta² in the mean over sizes, the outlier left out; None where no factor has one.

    A factor that gives each variant a level of its own explains everything and says nothing: it does not count.
    """
    kept = [name for name in table.variants if not outlier or name not in outlier.variants]
    shares = {}
    for factor, levels in table.factors.items():
        known = [share for share in explained(table, factor, outlier).values() if share is not None]
        if known and len({levels[name] for name in kept}) < len(kept):
            shares[factor] = float(np.mean(known))
    return max(shares, key=lambda name: shares[name], default=None)


def explained(table: StudyTable, factor: str, outlier: Outlier | None) -> dict[str, float | None]:
    """Size -> eta²: the share of the variance between variants that a factor's level means have; largest data size."""
    return {
        size: _eta_squared(*_known(column, table, factor, outlier))
        for size, column in zip(table.sizes, table.means[:, :, -1].T, strict=True)
    }


def noise(table: StudyTable) -> list[Noise]:
    """Effect of seeds for every size and data size; nothing is defined with one seed."""
    return [
        _noise(size, data, table.grid[:, s, d])
        for s, size in enumerate(table.sizes)
        for d, data in enumerate(table.data)
    ]


def _compare(table: StudyTable, view: View, columns: dict[str, Floats], all_pairs: bool) -> list[SizeAgreement]:
    pairs = [(item, against) for against, item in combinations(reversed(list(columns)), 2)]
    largest = pairs[0][1] if pairs else ""
    chosen = ((item, against) for item, against in pairs if all_pairs or against == largest)
    found = []
    for item, against in chosen:
        x, y = columns[item], columns[against]
        agreement = measure_agreement(*view.columns(table, x, y), view.groups(table, x, y))
        found.append(SizeAgreement(view.title, item, against, agreement))
    return found


def _without_level_means(column: Floats, levels: Sequence[str], is_used: NDArray[np.bool_]) -> Floats:
    """(V,) scores minus the mean of those of the same level that are used."""
    labels = np.array(levels)
    left = np.full(len(column), np.nan)
    for level in set(levels):
        members = (labels == level) & is_used
        if members.any():
            left[members] = column[members] - column[members].mean()
    return left


def _level_means(scores: Floats, levels: Sequence[str]) -> Floats:
    """(levels, S) means of (V, S) scores in the order in which the levels appear."""
    labels = np.array(levels)
    return np.stack([mean_of_known(scores[labels == level], axis=0) for level in dict.fromkeys(levels)])


def _known(column: Floats, table: StudyTable, factor: str, outlier: Outlier | None) -> tuple[Floats, list[str]]:
    """The scores of a (V,) column that are there, the outlier's left out, and the level of each."""
    kept = [
        (score, level)
        for name, score, level in zip(table.variants, column, table.levels(factor), strict=True)
        if np.isfinite(score) and not (outlier and name in outlier.variants)
    ]
    return np.array([score for score, _ in kept]), [level for _, level in kept]


def _eta_squared(scores: Floats, levels: Iterable[str]) -> float | None:
    labels = np.array(list(levels))
    if len(scores) < 2 or is_constant(scores) or len(set(labels)) < 2:
        return None
    between = sum(len(own) * (own.mean() - scores.mean()) ** 2 for own in (scores[labels == k] for k in set(labels)))
    return float(between / ((scores - scores.mean()) ** 2).sum())


def _noise(size: str, data: str, scores: Floats) -> Noise:
    """(V, K) scores with NaN where a run is missing."""
    counts = np.isfinite(scores).sum(axis=1)
    means = mean_of_known(scores, axis=1)
    freedom = np.maximum(counts - 1, 0).sum()
    squares = np.nansum((scores - means[:, None]) ** 2)
    seed_variance = float(squares / freedom) if freedom else None
    present = counts > 0
    variant_variance = float(means[present].var(ddof=1)) if present.sum() > 1 else None
    share = None
    if seed_variance is not None and variant_variance:
        share = min(1.0, float((seed_variance / counts[present]).mean()) / variant_variance)
    return Noise(
        size,
        data,
        None if seed_variance is None else seed_variance**0.5,
        None if variant_variance is None else variant_variance**0.5,
        share,
    )
