"""Agreement of two columns of scores (R², Spearman, Kendall's tau-b), each with a bootstrap interval over the rows.

n rows (variants) · B resamples
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, permutations, product
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_apollo.study.table import Floats

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
MIN_DEFINED = 0.95  # share of the resamples on which a figure must be defined for its interval to be
DECIMALS = 10  # scores that differ by less are tied: what is left of them after a subtraction is rounding

_SAME = 1e-9  # a spread below this part of the largest value is none


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its interval; None where it is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of two columns over `num_variants` rows."""

    num_variants: int
    r_squared: Estimate  # squared Pearson correlation
    spearman: Estimate
    kendall: Estimate  # tau-b
    p_value: float | None  # share of all orders of the rows, or of those within groups, whose tau is as high or higher


def measure_agreement(
    x: Floats, y: Floats, groups: Sequence[str] | None = None, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Agreement:
    """Agreement of two (n,) columns; nothing is defined below 3 rows or where a column does not vary.

    With `groups`, whose means were taken off, only rows of one group are exchanged for the p-value. Intervals are
    percentile intervals at CONFIDENCE over rows drawn with replacement, from the resamples on which the figure is defined;
    there is none where fewer than MIN_DEFINED of them are.
    """
    x, y = np.round(x, DECIMALS), np.round(y, DECIMALS)
    undefined = Estimate()
    if len(x) < 3 or is_constant(x) or is_constant(y):
        return Agreement(len(x), undefined, undefined, undefined, None)
    pearson, spearman, kendall = resampled(x, y, num_resamples, seed)
    tau: Any = stats.kendalltau(x, y, alternative="greater")
    p_value = tau.pvalue if groups is None else p_within(x, y, groups, num_resamples, seed)
    rho: Any = stats.spearmanr(x, y)
    linear: Any = stats.pearsonr(x, y)
    return Agreement(
        len(x),
        r_squared=_estimate(linear.statistic**2, pearson**2),
        spearman=_estimate(rho.statistic, spearman),
        kendall=_estimate(tau.statistic, kendall),
        p_value=float(p_value),
    )


def p_within(x: Floats, y: Floats, groups: Sequence[str], num_orders: int, seed: int) -> float:
    """The share of the orders of y within each group whose tau with x is as high or higher.

    All orders where there are at most `num_orders` of them, else that many drawn ones and the order that was found.
    """
    sign_x = np.sign(x[:, None] - x[None, :])
    orders = _orders_within(groups, num_orders, seed)  # (orders, n)
    concordant = np.array([(sign_x * np.sign(y[order][:, None] - y[order][None, :])).sum() for order in orders])
    return float((concordant >= (sign_x * np.sign(y[:, None] - y[None, :])).sum()).mean())


def is_constant(values: Floats) -> bool:
    """True if all values are the same but for rounding."""
    return bool(np.ptp(values) <= _SAME * np.abs(values).max())


def draw_counts(num_rows: int, num_resamples: int, seed: int) -> Floats:
    """(B, n) how often each row is in each resample of n rows, drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples).astype(np.float64)


def resampled(x: Floats, y: Floats, num_resamples: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """(B,) Pearson, Spearman and Kendall of every resample of two (n,) columns; NaN where a resampled column is constant.

    A resample is a count for every row, so all three are weighted sums. The mid-rank of row i among the resample is, up
    to a constant, half the sum of sign(x_i − x_j) over its members j, and tau-b sums the products of such signs.
    """
    counts = draw_counts(len(x), num_resamples, seed)
    sign_x, sign_y = (np.sign(column[:, None] - column[None, :]) for column in (x, y))  # (n, n)
    ordered, in_x, in_y = (((counts @ pairs) * counts).sum(axis=1) for pairs in (sign_x * sign_y, sign_x**2, sign_y**2))
    varies = (in_x > 0) & (in_y > 0)  # exact: sums of whole numbers
    pearson = _moments(np.broadcast_to(x, counts.shape), np.broadcast_to(y, counts.shape), counts)
    spearman = _moments(counts @ sign_x.T, counts @ sign_y.T, counts)
    return _ratio(*pearson, varies), _ratio(*spearman, varies), _ratio(ordered, in_x, in_y, varies)


def _orders_within(groups: Sequence[str], num_orders: int, seed: int) -> NDArray[np.intp]:
    """(orders, n) row numbers, exchanged within each group; the order that was found is the first."""
    labels = np.array(list(groups))
    members = [np.flatnonzero(labels == label) for label in dict.fromkeys(groups)]
    if prod(factorial(len(rows)) for rows in members) <= num_orders:
        choices = [list(chain.from_iterable(choice)) for choice in product(*map(permutations, members))]
        orders = np.empty((len(choices), len(groups)), np.intp)
        orders[:, np.concatenate(members)] = choices
        return orders
    generator = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(groups)), (num_orders + 1, 1))
    for rows in members:
        orders[1:, rows] = generator.permuted(orders[1:, rows], axis=1)
    return orders


def _moments(x: Floats, y: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """(B,) sums of xy, x² and y² about the means of (B, n) columns, each row counted as often as `counts` says."""
    total = counts.sum(axis=1, keepdims=True)
    x, y = (column - (counts * column).sum(axis=1, keepdims=True) / total for column in (x, y))
    return (counts * x * y).sum(axis=1), (counts * x * x).sum(axis=1), (counts * y * y).sum(axis=1)


def _ratio(product: Floats, square_x: Floats, square_y: Floats, varies: NDArray[np.bool_]) -> Floats:
    """product / sqrt(square_x · square_y), a correlation; NaN where a column does not vary."""
    size = np.sqrt(np.where(varies, square_x * square_y, 1.0))
    return np.where(varies, np.clip(product / size, -1.0, 1.0), np.nan)


def _estimate(value: float, samples: Floats) -> Estimate:
    defined = samples[np.isfinite(samples)]
    if len(defined) < MIN_DEFINED * len(samples):
        return Estimate(float(value))
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high))
