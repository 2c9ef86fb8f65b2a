"""Evaluate a trained stage or an export on own rows, with tables on the terminal and a page. Optionally compares a
second model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from lightning_apollo.data.storage.address import name_of
from lightning_apollo.evaluation.ask import answer_prompts
from lightning_apollo.evaluation.checkpoint import (
    EvaluationTarget,
    model_names,
    places,
    print_comparisons,
    sayer,
)
from lightning_apollo.evaluation.compare import Comparison, compare
from lightning_apollo.evaluation.own.page import write_outcome_page
from lightning_apollo.evaluation.own.rows import OwnRowsConfig, read_own_rows
from lightning_apollo.evaluation.own.run import OwnOutcome, evaluate_rows, run_of_rows
from lightning_apollo.evaluation.own.teacher_forcing import answer_losses
from lightning_apollo.evaluation.ranks import Ranks, join_ranks
from lightning_apollo.evaluation.run import EvaluationConfig
from lightning_apollo.progress import progress_bar


@dataclass(frozen=True)
class _Asked:
    outcome: OwnOutcome
    tokenizer: PreTrainedTokenizerBase


def evaluate_own(
    checkpoint: str,
    overrides: Sequence[str],
    rows: OwnRowsConfig,
    output: Path | None,
    config: EvaluationConfig,
    console: Console,
    other: str | None = None,
) -> None:
    """Ask, write answers, tables and report.html into `output`, or the model's folder, and print the tables.

    other: a second checkpoint that is asked the same rows and compared.
    """
    name = "+".join(dict.fromkeys(PurePosixPath(name_of(path)).stem for path in rows.manifests))
    name = name.replace("*", "all").replace("?", "all")  # of patterns
    with join_ranks() as (ranks, device):
        asked = [
            _ask(place, rows, config, ranks, device, console)
            for place in places(checkpoint, overrides, other, output, name, sayer(ranks, console))
        ]
    if ranks.rank == 0:
        outcomes = [one.outcome for one in asked]
        for outcome in outcomes:
            _print(outcome, console)
        comparisons = _compare(*outcomes) if other else []
        path = outcomes[0].run.output / "report.html"
        if comparisons:
            print_comparisons(comparisons, path.parent, console)
        write_outcome_page(path, outcomes[0], asked[0].tokenizer, comparisons, outcomes[1] if comparisons else None)
        console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _ask(
    place: EvaluationTarget,
    rows: OwnRowsConfig,
    config: EvaluationConfig,
    ranks: Ranks,
    device: torch.device,
    console: Console,
) -> _Asked:
    if place.stage is not None:
        data = place.stage[0].data
        rows = replace(
            rows,
            unknown_keys=data.unknown_keys,
            outside_root=tuple(data.outside_root),
            protocols=tuple(data.storage.protocols),
        )
    read = ranks.first_to_last(lambda: read_own_rows(rows))
    trained = place.load(device)
    run = run_of_rows(read, trained.preparer, place.output, place.model, {"weights": place.digest()}, config)
    answer = partial(answer_prompts, trained, max_new_tokens=run.benchmark.max_new_tokens)
    measure = partial(answer_losses, trained)
    with progress_bar(f"ask {read.title}", console, is_shown=ranks.rank == 0) as advance:
        return _Asked(evaluate_rows(run, read, answer, measure, ranks, advance, rows.metric), trained.tokenizer)


def _compare(first: OwnOutcome, second: OwnOutcome) -> list[Comparison]:
    names = model_names([first.run, second.run])
    return [
        compare(first.run.benchmark, first.rows.questions, answers, second.answers[mode], names, mode)
        for mode, answers in first.answers.items()
        if mode in second.answers
    ]


def _print(outcome: OwnOutcome, console: Console) -> None:
    for table in outcome.tables:
        console.print(table.grid().rich())
    for line in [*outcome.remarks(), *outcome.tables[0].remarks()]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
