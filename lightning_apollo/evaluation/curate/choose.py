"""Curation of questions: keep those that need the video and tell models apart, as ApolloBench was made (Apollo §2).

results of several models ─> table ─> drop what needs no video ─> rank by entropy ─> the top of every category

Letters: L models · Q questions, sorted by benchmark and question id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy, pearsonr, spearmanr

from lightning_apollo.evaluation.results import MODES, QuestionResult, ResultsError

WITHOUT_VIDEO = ("single_frame", "blind")  # modes in which a question that needs the video cannot be answered
MIN_CORRELATED = 3  # models; two always lie on a line
NUM_DRAWS = 100  # random choices that a curated one is compared with

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class CurateConfig:
    """Criteria of curation. The paper's numbers (Apollo §2)."""

    top: int = 400  # questions in all
    per_category: int | None = None  # questions of every category, in the place of `top`
    max_share_without_video: float = 0.5  # of the models; above it a question is dropped

    def __post_init__(self) -> None:
        if self.top < 1 or (self.per_category is not None and self.per_category < 1):
            raise ValueError("top and per_category are at least 1")
        if not 0 <= self.max_share_without_video <= 1:
            raise ValueError(f"max_share_without_video is between 0 and 1, not {self.max_share_without_video}")


@dataclass(frozen=True, order=True)
class CandidateQuestion:
    benchmark: str
    question_id: str
    category: str


@dataclass(frozen=True)
class ResultTable:
    """Right answers by model: every model has answered every question in every mode."""

    models: tuple[str, ...]
    questions: tuple[CandidateQuestion, ...]
    is_right: Mapping[str, Mask]  # mode -> (L, Q)

    def shares(self, mode: str) -> Values:
        """The share of models that are right, (Q,)."""
        return self.is_right[mode].mean(axis=0)

    def scores(self, mode: str, chosen: Mask) -> Values:
        """The accuracy of every model on the chosen (Q,) questions, (L,); NaN where none is chosen."""
        if not chosen.any():
            return np.full(len(self.models), np.nan)
        return self.is_right[mode][:, chosen].mean(axis=1)

    def without(self, model: int) -> ResultTable:
        """The table of all other models."""
        models = self.models[:model] + self.models[model + 1 :]
        return replace(self, models=models, is_right={m: np.delete(r, model, axis=0) for m, r in self.is_right.items()})


@dataclass(frozen=True)
class Curation:
    """Decision about every question of a table, with its reason."""

    table: ResultTable
    needs_no_video: Mapping[str, Mask]  # mode of WITHOUT_VIDEO -> (Q,): too many models are right in it
    needs_video: Mask  # (Q,): neither
    entropies: Values  # (Q,) bits
    is_kept: Mask  # (Q,)

    def outcome(self, index: int) -> str:
        """In words, what became of a question."""
        if self.is_kept[index]:
            return "kept"
        modes = [mode for mode in WITHOUT_VIDEO if self.needs_no_video[mode][index]]
        return f"answered in {' and '.join(modes)}" if modes else "below the top of its category"


@dataclass(frozen=True)
class Correlation:
    """Between two lists of scores of the same models; None where it is not defined."""

    pearson: float | None
    spearman: float | None


def tabulate(results: Iterable[QuestionResult]) -> ResultTable:
    """The table of all results, the same for every order of them.

    ResultsError where there are none, a model lacks a mode, a question was answered twice or not by all, or means
    different things to different models.
    """
    asked: dict[tuple[str, str], QuestionResult] = {}
    answered: dict[tuple[str, str], dict[tuple[str, str], bool]] = {}  # (model, mode) -> question -> is right
    for result in results:
        key = (result.benchmark, result.question_id)
        first = asked.setdefault(key, result)
        _check_same_question(first, result)
        rights = answered.setdefault((result.model, result.mode), {})
        if key in rights:
            raise ResultsError(f"{_name(key)}: {result.model} answers it twice in mode {result.mode}: keep one of them")
        rights[key] = result.is_right
    models = sorted({model for model, _ in answered})
    _check_complete(models, answered, sorted(asked))
    return ResultTable(
        models=tuple(models),
        questions=tuple(CandidateQuestion(*key, asked[key].category) for key in sorted(asked)),
        is_right={
            mode: np.array([[answered[model, mode][key] for key in sorted(asked)] for model in models])
            for mode in MODES
        },
    )


def _check_same_question(first: QuestionResult, other: QuestionResult) -> None:
    for field in ("category", "expected"):
        before, now = getattr(first, field), getattr(other, field)
        if before != now:
            raise ResultsError(
                f"{_name((other.benchmark, other.question_id))}: its {field} is {before!r} for {first.model} and {now!r} "
                f"for {other.model}: give different questions different ids"
            )


def _check_complete(
    models: list[str],
    answered: Mapping[tuple[str, str], Mapping[tuple[str, str], bool]],
    questions: list[tuple[str, str]],
) -> None:
    if not models:
        raise ResultsError("there are no results: name files with those of at least one model")
    for model in models:
        for mode in MODES:
            if (model, mode) not in answered:
                raise ResultsError(f"{model} has no results in mode {mode}: ask it in all of {', '.join(MODES)}")
    for question in questions:
        for (model, mode), rights in sorted(answered.items()):
            if question not in rights:
                raise ResultsError(
                    f"{_name(question)}: {model} has no answer in mode {mode}, others have: "
                    "ask every model the same questions in every mode"
                )


def _name(question: tuple[str, str]) -> str:
    return " ".join(question)


def curate(table: ResultTable, config: CurateConfig) -> Curation:
    """Choose the questions of a table to keep.

    A question is dropped where more than `max_share_without_video` of the models are right without the video. The paper
    says "with text or single-frame input": the share is taken over the models, for each of the two modes by itself, and
    one that is above the limit suffices. The rest is ranked within its category by the entropy of being right with the
    video, ties by question id, and the top of each category stays.
    """
    needs_no_video = {mode: table.shares(mode) > config.max_share_without_video for mode in WITHOUT_VIDEO}
    num_right = table.is_right["full"].sum(axis=0)  # (Q,)
    entropies = np.asarray(entropy([num_right, len(table.models) - num_right], base=2, axis=0))  # (Q,)
    needs_video = ~np.logical_or.reduce(list(needs_no_video.values()))
    return Curation(table, needs_no_video, needs_video, entropies, _top(table, entropies, needs_video, config))


def _top(table: ResultTable, entropies: Values, needs_video: Mask, config: CurateConfig) -> Mask:
    """True at questions that need the video and are among the top of their category, (Q,)."""
    questions = table.questions
    ranked = sorted(
        np.flatnonzero(needs_video).tolist(),
        key=lambda index: (-entropies[index], questions[index].question_id, questions[index].benchmark),
    )
    by_category: dict[str, list[int]] = {}
    for index in ranked:
        by_category.setdefault(questions[index].category, []).append(index)
    quotas = questions_per_category(config.top, {category: len(ranks) for category, ranks in by_category.items()})
    is_top = np.zeros(len(questions), dtype=bool)
    for category, ranks in by_category.items():
        is_top[ranks[: config.per_category or quotas[category]]] = True
    return is_top


def questions_per_category(top: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Number of questions that each category gives to `top`: as even as their sizes allow, what is left over to larger ones."""
    quotas: dict[str, int] = {}
    for position, category in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        evenly = (top - sum(quotas.values())) // (len(sizes) - position)
        quotas[category] = min(sizes[category], evenly)
    return quotas


def leave_one_out(table: ResultTable, config: CurateConfig) -> Values:
    """The accuracy of every model on what is curated from the others alone, (L,); NaN where that is nothing."""
    scores = np.full(len(table.models), np.nan)
    if len(table.models) > 1:
        for model in range(len(table.models)):
            chosen = curate(table.without(model), config).is_kept
            scores[model] = table.scores("full", chosen)[model]
    return scores


def correlate_random(table: ResultTable, num_chosen: int, seed: int = 0) -> Correlation:
    """Correlation of a random choice of that many questions: the mean over NUM_DRAWS choices, undefined ones aside."""
    everything = np.ones(len(table.questions), dtype=bool)
    draws = []
    for order in np.random.default_rng(seed).permuted(np.tile(np.arange(len(everything)), (NUM_DRAWS, 1)), axis=1):
        draws.append(correlate(table.scores("full", everything), table.scores("full", order < num_chosen)))
    means = []
    for values in ([draw.pearson for draw in draws], [draw.spearman for draw in draws]):
        defined = [value for value in values if value is not None]
        means.append(fmean(defined) if defined else None)
    return Correlation(*means)


def correlate(before: Values, after: Values) -> Correlation:
    """Pearson's and Spearman's correlation of two lists of scores of the same models.

    Not defined below three models, with equal scores on either side, or where a score is missing.
    """
    if len(before) < MIN_CORRELATED or not all(np.isfinite(s).all() and np.ptp(s) > 0 for s in (before, after)):
        return Correlation(None, None)
    pearson, spearman = (np.asarray(test(before, after))[0] for test in (pearsonr, spearmanr))  # [1] is the p-value
    return Correlation(float(pearson), float(spearman))
