"""Findings of a study, in tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_apollo.study.analysis import (
    OUTLIER_RULE,
    SMALLEST_RULE,
    THRESHOLD,
    Noise,
    Outlier,
    SizeAgreement,
    View,
    compare_data,
    compare_sizes,
    compare_within,
    explained,
    noise,
    smallest_like_largest,
    views,
)
from lightning_apollo.study.sections import (
    Section,
    agreement_section,
    factor_section,
    noise_section,
    number_text,
    r_squared_section,
)
from lightning_apollo.study.statistics import CONFIDENCE, NUM_RESAMPLES
from lightning_apollo.study.table import StudyTable

METHOD = (
    f"In brackets: the {CONFIDENCE:.0%} percentile interval over {NUM_RESAMPLES:,} resamples of the variants (bootstrap). "
    "p: the share of all orders of the variants (within each level, where a factor's means are removed) that agree as well or "
    "better; with few variants it says more than an interval. "
    "R² has no sign: a rank correlation below 0 beside it means that the order is turned round."
)
MAX_P = 0.05
CHANCE = f"that takes a Kendall's tau whose interval lies above 0, and a p of at most {MAX_P:g}"


@dataclass(frozen=True)
class Findings:
    """Inputs of the tables and sentences of a report."""

    table: StudyTable
    factor: str | None  # whose means are removed
    outlier: Outlier | None
    threshold: float
    views: list[View]
    pairs: list[SizeAgreement]  # every pair of sizes, over all variants
    with_largest: list[SizeAgreement]  # every size with the largest, view by view
    within: list[SizeAgreement]  # the same, level by level of the factor
    data: list[SizeAgreement]  # every data size with the largest
    noise: list[Noise]


def find(table: StudyTable, factor: str | None, outlier: Outlier | None, threshold: float = THRESHOLD) -> Findings:
    """Everything about a table, with a factor whose means are removed and an outlier that is left out."""
    chosen = views(factor, outlier)
    return Findings(
        table,
        factor,
        outlier,
        threshold,
        chosen,
        pairs=compare_sizes(table, chosen[0], all_pairs=True),
        with_largest=[comparison for view in chosen for comparison in compare_sizes(table, view)],
        within=compare_within(table, factor, outlier) if factor is not None else [],
        data=compare_data(table, chosen[0]),
        noise=noise(table),
    )


def sections(findings: Findings, decimals: int) -> list[Section]:
    """The report's sections on agreement, factors and noise, the answer first."""
    table, factor = findings.table, findings.factor
    largest = list(table.sizes)[-1]
    found = [Section("What this says", conclusion(findings))]
    found.append(agreement_section("Every pair of sizes", METHOD, findings.pairs))
    if len(findings.views) > 1:
        found.append(
            r_squared_section(f"R² with {largest}, and what carries it", _removals(findings), findings.with_largest)
        )
        found.append(agreement_section(f"Agreement with {largest}", "", findings.with_largest))
    if any(comparison.agreement.r_squared.value is not None for comparison in findings.within):
        found.append(agreement_section(f"Within one {factor}", "", findings.within))
    if findings.data:
        title = f"Agreement with the largest data size, LLM {largest}"
        found.append(agreement_section(title, "", findings.data))
    if table.factors:
        found.append(factor_section(table, findings.outlier))
    if len(table.seeds) > 1:
        found.append(noise_section(findings.noise, decimals))
    return found


def conclusion(findings: Findings) -> str:
    """Basis of the agreement of sizes, and the smallest ones that rank like the largest, in a paragraph."""
    table = findings.table
    by_view = [_of_view(findings.with_largest, view) for view in findings.views]
    if not by_view[0]:
        return "One LLM size alone: nothing can be compared."
    largest = list(table.sizes)[-1]
    sentences = [f"Over all variants R² with {largest} is {_listed(by_view[0])}."]
    if len(by_view) > 1:
        sentences.append(f"With {findings.views[-1].title} it is {_listed(by_view[-1])}.")
        sentences.append(_carried(findings, by_view[0], by_view[-1]))
    sentences += _answers(findings)
    sentences.append(f'("Smallest": {SMALLEST_RULE.format(threshold=findings.threshold)}.)')
    return " ".join(sentences)


def rows_of(findings: Findings) -> Iterator[dict[str, object]]:
    """One row a figure, for a CSV: measure, view, item, against, variants, value, low, high; empty where not defined."""
    for comparison in (*findings.pairs, *findings.with_largest, *findings.within, *findings.data):
        agreement = comparison.agreement
        row = {"view": comparison.view, "item": comparison.item, "against": comparison.against}
        row |= {"variants": agreement.num_variants}
        for measure in ("r_squared", "spearman", "kendall"):
            estimate = getattr(agreement, measure)
            yield {"measure": measure, **row, "value": estimate.value, "low": estimate.low, "high": estimate.high}
        yield {"measure": "p_value", **row, "value": agreement.p_value}
    for left_out in dict.fromkeys((None, findings.outlier)):
        view = f"without {left_out.name}" if left_out else findings.views[0].title
        for factor in findings.table.factors:
            for size, share in explained(findings.table, factor, left_out).items():
                yield {"measure": "eta_squared", "view": view, "item": size, "against": factor, "value": share}
    for entry in findings.noise:
        for measure in ("seed_sd", "variant_sd", "noise_share"):
            yield {"measure": measure, "item": entry.size, "against": entry.data, "value": getattr(entry, measure)}


def _carried(findings: Findings, over_all: Sequence[SizeAgreement], left: Sequence[SizeAgreement]) -> str:
    """Basis of the agreement, and whether the order of the rest agrees as well."""
    if not any(map(_is_beyond_chance, over_all)):
        return f"Not even over all variants can an order be told from chance ({CHANCE}): these scores decide nothing."
    parts = [f"the choice of {findings.factor}"] if findings.factor is not None else []
    parts += [f"the failure of {findings.outlier.name}"] if findings.outlier else []
    shown = [comparison.item for comparison in left if _is_beyond_chance(comparison)]
    if shown:
        return f"So beyond {_and(parts)}, the order of what is left carries over from {_and(shown)}."
    return (
        f"No order of what is left can be told from chance ({CHANCE}): these scores support that {_and(parts)} "
        f"{'carry' if len(parts) > 1 else 'carries'} over from smaller LLMs, but do not show that the order of the other "
        f"variants does."
    )


def _is_beyond_chance(comparison: SizeAgreement) -> bool:
    """CHANCE, of one comparison."""
    low, p_value = comparison.agreement.kendall.low, comparison.agreement.p_value
    return low is not None and low > 0 and p_value is not None and p_value <= MAX_P


def _answers(findings: Findings) -> list[str]:
    largest = list(findings.table.sizes)[-1]
    sentences = []
    asked = [view for view in findings.views if view.outlier is None]  # with everything, and without the factor's means
    for view in asked:
        smallest = smallest_like_largest(_of_view(findings.with_largest, view), findings.threshold)
        sentences.append(
            f"Smallest size that ranks the variants as {largest} does, {view.title}: {smallest or 'none'}."
        )
    if findings.data:
        smallest = smallest_like_largest(findings.data, findings.threshold)
        sentences.append(
            f"Smallest data size that ranks them as {list(findings.table.data)[-1]} does: {smallest or 'none'}."
        )
    return sentences


def _removals(findings: Findings) -> str:
    """Reasons for the chosen views."""
    reasons = []
    if findings.factor is not None:
        reasons.append(
            f"{findings.factor} is the factor whose means are removed; unless you name one, it is the one that explains most"
        )
    if findings.outlier:
        reasons.append(f"{findings.outlier.name} is left out; unless you name one, it is {OUTLIER_RULE}")
    return ". ".join(reason[0].upper() + reason[1:] for reason in reasons) + "."


def _of_view(comparisons: Sequence[SizeAgreement], view: View) -> list[SizeAgreement]:
    return [comparison for comparison in comparisons if comparison.view == view.title]


def _listed(comparisons: Sequence[SizeAgreement]) -> str:
    return _and([f"{number_text(c.agreement.r_squared.value)} ({c.item})" for c in comparisons])


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
