"""Confidence intervals by drawing the questions anew (Efron's percentile bootstrap).

C scenes · K categories · R draws

Questions about one video or image stand or fall together, so that scenes are drawn, each with all of its questions.
torchmetrics' BootStrapper draws within an update and keeps a copy of the metric for every draw; it cannot draw scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 1000
LEVEL = 0.95
_DRAWS_AT_ONCE = 100  # (draws, scenes) of counts are held at one time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Parts of every headline, one row for each draw: (R, K)."""

    scores: Array
    answers: Array  # how many
    whole_scenes: Array  # scenes whose answers are all right
    scenes: Array  # that have an answer


Headline = Callable[[Sums], Array]  # (R,)


def over_questions(sums: Sums) -> Array:
    """The mean score of all answers, in per cent."""
    return 100 * sums.scores.sum(axis=1) / sums.answers.sum(axis=1)


def over_categories(sums: Sums) -> Array:
    """The mean of the categories' mean scores, in per cent, those without an answer aside."""
    return 100 * np.nanmean(sums.scores / sums.answers, axis=1)


def of_mme(sums: Sums) -> Array:
    """MME's score: accuracy and accuracy+ of every category in per cent, added up; one without an answer counts as the
    mean of the others."""
    points = 100 * (sums.scores / sums.answers + sums.whole_scenes / sums.scenes)
    return points.shape[1] * np.nanmean(points, axis=1)


def out_of_thousand(sums: Sums) -> Array:
    """OCRBench's score: right answers, in a thousand."""
    return 10 * over_questions(sums)


def mean_of_weights(sums: Sums) -> Array:
    """The sum of all scores over that of their weights: nats a token, where these are losses and numbers of tokens."""
    return sums.scores.sum(axis=1) / sums.answers.sum(axis=1)


def interval(
    scores: Sequence[float], categories: Sequence[str], scenes: Sequence[str], headline: Headline, seed: int = 0
) -> tuple[float, float]:
    """The bounds of the headline's 95 % interval, from NUM_DRAWS draws of the scenes; the same for the same seed."""
    return bounds(draws(scores, categories, scenes, headline, seed))


def draws(
    scores: Sequence[float],
    categories: Sequence[str],
    scenes: Sequence[str],
    headline: Headline,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> Array:
    """The headline of NUM_DRAWS draws of the scenes, (R,). The same scenes and seed draw the same: two models' draws are
    paired. An answer weighs 1 where no `weights` are given."""
    per_scene = _sum_up(scores, categories, scenes, weights)
    generator = np.random.default_rng(seed)
    num_scenes = len(per_scene.scores)
    values = []
    for _ in range(0, NUM_DRAWS, _DRAWS_AT_ONCE):
        counts = generator.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size=_DRAWS_AT_ONCE)
        drawn = Sums(*(counts @ part for part in vars(per_scene).values()))  # (R, C) @ (C, K)
        with np.errstate(invalid="ignore"):  # 0 / 0: a category that was not drawn
            values.append(headline(drawn))
    return np.concatenate(values)


def bounds(drawn: Array) -> tuple[float, float]:
    """The bounds of the 95 % interval of draws (R,)."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def _sum_up(
    scores: Sequence[float], categories: Sequence[str], scenes: Sequence[str], weights: Sequence[float] | None
) -> Sums:
    """The parts of the sums that each scene brings, (C, K)."""
    names, column = np.unique(np.asarray(categories), return_inverse=True)
    places, row = np.unique(np.asarray(scenes), return_inverse=True)
    totals, answers = (np.zeros((len(places), len(names))) for _ in range(2))
    np.add.at(totals, (row, column), np.asarray(scores, dtype=np.float64))
    np.add.at(answers, (row, column), 1.0 if weights is None else np.asarray(weights, dtype=np.float64))
    shown = answers > 0
    return Sums(totals, answers, (shown & (totals == answers)).astype(np.float64), shown.astype(np.float64))
