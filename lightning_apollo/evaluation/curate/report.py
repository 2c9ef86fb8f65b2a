"""Files and tables of `lightning-apollo evaluate curate`.

questions.csv    every question: shares of right models, entropy, what became of it
curated.jsonl    the questions that stay
scores.png       every model's accuracy on all questions against that on the curated ones
report.md        sizes, scores, correlations
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_apollo.evaluation.curate.choose import (
    MIN_CORRELATED,
    Correlation,
    CurateConfig,
    Curation,
    Values,
    correlate,
    correlate_random,
    curate,
    leave_one_out,
    tabulate,
)
from lightning_apollo.evaluation.results import MODES, ResultsError, read_results

TITLES = {"full": "video", "single_frame": "one frame", "blind": "text alone"}
UNIT = "counted in questions: results do not hold the lengths of the videos"
CAUTION = (
    "The first correlation is optimistic: the models are scored on questions that they chose themselves. The second scores "
    "each on what the others choose; the models then answer different questions, so that it can come out higher too. The "
    "third is what a random choice of as many questions reaches. All three gain from the chosen questions being among all."
)


@dataclass(frozen=True)
class TextGrid:
    """A table for the terminal and for Markdown; the first column holds names."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for position, name in enumerate(self.head):
            table.add_column(name, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        rule = ("---", *("---:" for _ in self.head[1:]))
        lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in (self.head, rule, *self.rows))
        return f"## {self.title}\n\n" + "".join(f"| {line} |\n" for line in lines)


@dataclass(frozen=True)
class CurationScores:
    """Accuracy of every model with the video, (L,), on three sets of questions, and what a random set does."""

    all_questions: Values
    curated: Values
    left_out: Values  # curated without this model
    at_random: Correlation

    def correlations(self) -> dict[str, Correlation]:
        return {
            "chosen by these models": correlate(self.all_questions, self.curated),
            "each model left out of the choice": correlate(self.all_questions, self.left_out),
            "chosen at random": self.at_random,
        }


def run_curation(paths: Sequence[Path], config: CurateConfig, output: Path) -> None:
    """Curate the questions of all files together, write the folder and print the tables; see the top of this file."""
    table = tabulate(result for path in paths for result in read_results(path))
    curation = curate(table, config)
    if not curation.is_kept.any():
        raise ResultsError(
            f"none of {len(table.questions)} questions needs the video: more than {config.max_share_without_video:.0%} of "
            f"the models answer each without it: add models or raise --max-share-without-video"
        )
    everything = np.ones(len(table.questions), dtype=bool)
    scores = CurationScores(
        all_questions=table.scores("full", everything),
        curated=table.scores("full", curation.is_kept),
        left_out=leave_one_out(table, config),
        at_random=correlate_random(table, int(curation.is_kept.sum())),
    )
    output.mkdir(parents=True, exist_ok=True)
    _write_questions(curation, output / "questions.csv")
    kept = [asdict(table.questions[index]) for index in np.flatnonzero(curation.is_kept)]
    (output / "curated.jsonl").write_text("".join(json.dumps(question) + "\n" for question in kept))
    draw_scores(table.models, scores).savefig(output / "scores.png", dpi=150)
    grids = [size_grid(curation), score_grid(curation, scores), correlation_grid(scores)]
    (output / "report.md").write_text(_report(curation, config, grids), encoding="utf-8")
    console = Console()
    for grid in grids:
        console.print(grid.rich())
    console.print(f"{_speed_up(curation)}\n{CAUTION}", markup=False, highlight=False)
    console.print(f"report: {output / 'report.md'}", markup=False, soft_wrap=True)


def _write_questions(curation: Curation, path: Path) -> None:
    table = curation.table
    shares = {f"share_right_{mode}": table.shares(mode) for mode in MODES}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "question_id", "category", *shares, "entropy_bits", "outcome"])
        for index, question in enumerate(table.questions):
            numbers = [float(values[index]) for values in (*shares.values(), curation.entropies)]
            name = (question.benchmark, question.question_id, question.category)
            writer.writerow([*name, *numbers, curation.outcome(index)])


def size_grid(curation: Curation) -> TextGrid:
    """Questions of every category: all, dropped for each reason, left, kept."""
    categories = sorted({question.category for question in curation.table.questions})
    masks = {
        "questions": np.ones_like(curation.is_kept),
        "answered from one frame": curation.needs_no_video["single_frame"],
        "answered from text alone": curation.needs_no_video["blind"],
        "need the video": curation.needs_video,
        "curated": curation.is_kept,
    }
    counts = [
        Counter(question.category for question, is_in in zip(curation.table.questions, mask, strict=True) if is_in)
        for mask in masks.values()
    ]
    rows = [(category, *(f"{count[category]:,}" for count in counts)) for category in categories]
    total = ("all", *(f"{count.total():,}" for count in counts))
    return TextGrid("Questions", ("category", *masks), (*rows, total))


def score_grid(curation: Curation, scores: CurationScores) -> TextGrid:
    """Accuracy of every model in every mode on all and on the curated questions."""
    table = curation.table
    head = ["model"]
    columns = []
    for mode, title in TITLES.items():
        head += [f"{title}: all", f"{title}: curated"]
        columns += [table.scores(mode, np.ones_like(curation.is_kept)), table.scores(mode, curation.is_kept)]
    head.append("video: curated without this model")
    columns.append(scores.left_out)
    rows = [(model, *(_number(column[i]) for column in columns)) for i, model in enumerate(table.models)]
    return TextGrid("Accuracy", tuple(head), tuple(rows))


def correlation_grid(scores: CurationScores) -> TextGrid:
    """Agreement of the curated questions with the scores of all questions."""
    rows = [(name, _number(c.pearson), _number(c.spearman)) for name, c in scores.correlations().items()]
    return TextGrid("Correlation of accuracy on all and on curated questions", ("", "Pearson", "Spearman"), tuple(rows))


def _number(value: float | None) -> str:
    return "not defined" if value is None or np.isnan(value) else f"{value:.3f}"


def draw_scores(models: Sequence[str], scores: CurationScores) -> Figure:
    """A point for every model: accuracy on all questions against that on the curated ones, with the diagonal."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.add_subplot()
    first = scores.all_questions[0]  # a point of the diagonal near the others: it widens the view
    axes.axline((first, first), slope=1, color="0.75", linewidth=0.8, linestyle="--")
    axes.scatter(scores.all_questions, scores.curated, label="chosen by these models")
    axes.scatter(
        scores.all_questions, scores.left_out, facecolors="none", edgecolors="C1", label="model left out of the choice"
    )
    for model, x, y in zip(models, scores.all_questions, scores.curated, strict=True):
        axes.annotate(model, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, parse_math=False)
    axes.set(xlabel="accuracy on all questions", ylabel="accuracy on curated questions")
    axes.margins(0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _speed_up(curation: Curation) -> str:
    num_all, num_kept = len(curation.is_kept), int(curation.is_kept.sum())
    return f"Speed-up: {num_all / num_kept:.1f}× ({num_all:,} questions before, {num_kept:,} after; {UNIT})."


def _report(curation: Curation, config: CurateConfig, grids: Sequence[TextGrid]) -> str:
    size, score, correlation = (grid.markdown() for grid in grids)
    limit = f"{config.max_share_without_video:.0%}"
    rule = f"the top {config.top:,}, shared over the categories as evenly as their sizes allow"
    if config.per_category is not None:
        rule = f"the top {config.per_category:,} of every category"
    num_agreed = int((curation.entropies[curation.is_kept] == 0).sum())
    return f"""# Curated questions

Results of {len(curation.table.models)} models.
A question is dropped where more than {limit} of them are right from one frame, or more than {limit} from the text alone.
The others are ranked by the entropy of being right with the video; kept are {rule}.

{size}
{_speed_up(curation)}
Curated questions with entropy 0, on which all models agree: {num_agreed:,}.

{score}
{correlation}
Not defined below {MIN_CORRELATED} models and with equal scores. {CAUTION}

![Accuracy on all questions against curated ones](scores.png)
"""
