"""Study report: Markdown, CSVs and plots in a folder. Also tables on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_apollo.study.analysis import dominant_factor, find_outlier, outlier_of
from lightning_apollo.study.findings import Findings, find, rows_of, sections
from lightning_apollo.study.plan import TEMPORAL, Study, StudyRun, llm_parameters
from lightning_apollo.study.plots import draw_plots
from lightning_apollo.study.score import read_score
from lightning_apollo.study.sections import Section, score_section
from lightning_apollo.study.table import DESIGN, RunScore, StudyError, StudyTable, read_table

NOBODY = "none"  # what --drop takes for leaving nothing out
MAX_NAMED = 12  # missing runs that the report names

_FIGURES = ("measure", "view", "item", "against", "variants", "value", "low", "high")


def report_study(study: Study, runs: Sequence[StudyRun], console: Console) -> None:
    """Write the report of the scores that are there below the study's output and print it."""
    tables = score_tables(study, runs)
    table = tables[study.score]
    if not table.scores:
        raise StudyError(f"{study.name}: no run is finished: start them with `lightning-apollo study run`")
    outlier = find_outlier(table, None)
    findings = find(table, dominant_factor(table, outlier), outlier, study.threshold)
    label = "accuracy, temporal questions" if study.score == TEMPORAL else f"accuracy, {study.score.replace('_', ' ')}"
    decimals = 3
    found = [_runs_section(runs), *sections(findings, decimals)]
    found.append(score_section(f"Scores: {label}, {list(table.data)[-1]}", table, decimals))
    folder = Path(study.output) / "report"
    write(study.name, found, findings, tables, label, folder)
    print_sections(found, console)
    console.print(f"report: {folder / 'report.md'}", soft_wrap=True, highlight=False)


def reanalyse(path: Path, factor: str | None, drop: str | None, output: Path | None, console: Console) -> None:
    """Print what a table in the paper's form says, and write the report where a folder is given.

    `factor` and `drop` name the column whose means are removed and the design that is left out (or "none"); where they
    are None, `dominant_factor` and `find_outlier` choose.
    """
    table = read_table(path)
    if factor is not None and factor not in table.factors:
        raise StudyError(f"--factor {factor}: the columns are {', '.join(table.factors)}")
    designs = dict.fromkeys(table.levels(DESIGN))
    if drop not in (None, NOBODY, *designs):
        raise StudyError(f"--drop {drop}: the designs are {', '.join(designs)}, or none to keep them all")
    outlier = find_outlier(table, DESIGN)
    if drop is not None:
        outlier = outlier_of(table, DESIGN, drop) if drop != NOBODY else None
    findings = find(table, factor or dominant_factor(table, outlier), outlier)
    found = sections(findings, decimals=2)
    print_sections(found, console)
    if output is not None:
        write(path.stem, found, findings, {"score": table}, "score", output)
        console.print(f"report: {output / 'report.md'}", soft_wrap=True, highlight=False)


def score_tables(study: Study, runs: Sequence[StudyRun]) -> dict[str, StudyTable]:
    """Scores by kind of question, and by TEMPORAL."""
    found = [(run, score) for run in runs if (score := read_score(run)) is not None]
    parameters = llm_parameters(study, runs)
    names = next(iter(study.variants.values())).factors
    return {
        kind: StudyTable(
            scores=tuple(
                RunScore(run.variant, run.size, run.data, run.seed, score.scores[kind]) for run, score in found
            ),
            variants=tuple(study.variants),
            sizes=parameters,
            data={name: data.samples for name, data in study.data.items()},
            factors={factor: {name: own.factors[factor] for name, own in study.variants.items()} for factor in names},
        )
        for kind in study.scores
    }


def write(
    title: str, found: Sequence[Section], findings: Findings, tables: Mapping[str, StudyTable], label: str, folder: Path
) -> None:
    """Write report.md, figures.csv, score.csv and the pictures that report.md shows."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_plots(findings, label, folder)
    shown = "\n".join(f"![{picture.stem.replace('_', ' ')}]({picture.name})\n" for picture in pictures)
    parts = [f"# {title}\n", *(section.markdown() for section in found), f"## Pictures\n\n{shown}"]
    (folder / "report.md").write_text("\n".join(parts))
    _write_csv(folder / "figures.csv", _FIGURES, rows_of(findings))
    columns = ("variant", *findings.table.factors, "size", "llm_parameters", "data", "samples", "seed", "kind", "score")
    _write_csv(folder / "scores.csv", columns, _score_rows(tables))


def print_sections(found: Sequence[Section], console: Console) -> None:
    """Print the sections."""
    for section in found:
        if section.columns:
            console.print(section.rich())
        else:
            console.print(section.title, style="bold", markup=False)
            console.print(section.text, markup=False, highlight=False)
        console.print()


def _runs_section(runs: Sequence[StudyRun]) -> Section:
    missing = [run.name for run in runs if read_score(run) is None]
    text = f"{len(runs) - len(missing)} of {len(runs)} are finished."
    if missing:
        rest = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        text += f" Missing: {', '.join(missing[:MAX_NAMED])}{rest}."
    return Section("Runs", text)


def _score_rows(tables: Mapping[str, StudyTable]) -> Iterator[dict[str, object]]:
    for kind, table in tables.items():
        for run in table.scores:
            yield {
                "variant": run.variant,
                **{factor: levels[run.variant] for factor, levels in table.factors.items()},
                "size": run.size,
                "llm_parameters": int(table.sizes[run.size]),
                "data": run.data,
                "samples": int(table.data[run.data]),
                "seed": run.seed,
                "kind": kind,
                "score": run.score,
            }


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
