"""The commands of `lightning-apollo study`. What they call is imported when they run: `--help` loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.progress import bars
from lightning_apollo.recipe.conf import study_file, study_names
from lightning_apollo.recipe.early_checks import require_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_apollo.study.plan import Study, StudyRun
    from lightning_apollo.study.score import StudyScore

app = typer.Typer(
    help="Find the smallest LLM that ranks designs as a large one does, and what that ranking rests on.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

RUN_EPILOG = """[bold]Examples[/bold]

lightning-apollo study run apollo-tiny-design --jobs 2

lightning-apollo study run my_study.yaml --slurm > study.sh && sbatch --time=2:00:00 study.sh
"""
REANALYSE_EPILOG = """[bold]Examples[/bold]

lightning-apollo study reanalyse benchmarks/data/apollo_scaling_tables.csv

lightning-apollo study reanalyse scores.csv --factor mixture --drop none --output runs/reanalysis
"""
FACTOR_HELP = (
    "Column whose means are removed at every size. Not given: the one that explains the largest share of the variance "
    "between models (eta², mean over sizes), the dropped design left out."
)
DROP_HELP = (
    "Design to leave out, or none. Not given: the one that is the lowest at every size, in the mean over the other columns, and "
    "there lies more than 3 robust standard deviations (1.4826 × the median absolute deviation) below the median design."
)


def _complete_study(incomplete: str) -> list[str]:
    return [name for name in study_names() if name.startswith(incomplete)]


StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="Name of a study in conf/study, or the path of a .yaml file.",
        autocompletion=_complete_study,
        show_default=False,
    ),
]


@app.command(epilog=RUN_EPILOG)
def run(
    study: StudyArgument,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs at a time, each in a process of its own.")] = 1,
    only: Annotated[
        str | None, typer.Option(metavar="RUN", help="This run alone, here in this process.", show_default=False)
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a script for sbatch that does what is missing.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPU threads of each run. Not given: 1 with several jobs, else the recipe's.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train and evaluate every run that is missing, then write the report.

    A run is finished when its score is there and its recipe has not changed since; a finished one is never repeated.
    Ends with code 1 where a run failed, after all others.
    """
    with errors_in_one_line(debug):
        if not slurm:  # which is often asked for on a machine that runs nothing
            require_video()
        study_file(study)
        from lightning_apollo.study.plan import load_study, plan_run, plan_runs

        config = load_study(study)
        if only is not None:
            planned = plan_run(config, only)
            from lightning_apollo.study.execute import run_one

            score = run_one(planned, config.score, threads)
            Console().print(f"{score.run}: {score.score:.3f} ({config.score})", highlight=False, soft_wrap=True)
            return
        runs = plan_runs(config)
        if slurm:
            _print_slurm(study, config, runs)
            return
        has_failed = _run_missing(study, config, runs, jobs, threads if threads or jobs == 1 else 1)
    if has_failed:
        raise typer.Exit(1)


@app.command()
def report(study: StudyArgument, debug: Debug = False) -> None:
    """Make tables and plots from the scores that are there."""
    with errors_in_one_line(debug):
        study_file(study)
        from lightning_apollo.study.plan import load_study, plan_runs

        config = load_study(study)
        runs = plan_runs(config)
        from lightning_apollo.study.report import report_study

        report_study(config, runs, Console())


@app.command("list")
def list_runs(study: StudyArgument, debug: Debug = False) -> None:
    """Show every run: done, running, stale (the recipe has changed since), failed with the last line of its log, or missing."""
    with errors_in_one_line(debug):
        study_file(study)
        from lightning_apollo.study.plan import load_study, plan_runs
        from lightning_apollo.study.score import last_line, read_score, status

        config = load_study(study)
        table = Table("run", "state", config.score, "")
        for run in plan_runs(config):
            state, score = status(run), read_score(run)
            shown = "" if score is None else f"{score.scores[config.score]:.3f}"
            table.add_row(run.name, state, shown, last_line(run) if state == "failed" else "")
        Console().print(table)


@app.command(epilog=REANALYSE_EPILOG)
def reanalyse(
    scores: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES.csv",
            help="One row a model: design, llm (such as 0.5B), score, and one or more factors such as mixture.",
            show_default=False,
        ),
    ],
    factor: Annotated[str | None, typer.Option(metavar="COLUMN", help=FACTOR_HELP, show_default=False)] = None,
    drop: Annotated[str | None, typer.Option(metavar="DESIGN", help=DROP_HELP, show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write report, CSVs and plots there.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Say how well small LLMs rank designs as the largest does in a published table, and what that rests on."""
    with errors_in_one_line(debug):
        require_files([scores])
        from lightning_apollo.study.report import reanalyse as analyse

        analyse(scores, factor, drop, output, Console())


def _run_missing(name: str, study: Study, runs: Sequence[StudyRun], jobs: int, threads: int | None) -> bool:
    """True if a run failed, after running what is missing and writing the report."""
    from lightning_apollo.study.execute import render_study_data
    from lightning_apollo.study.jobs import cli_command, run_all
    from lightning_apollo.study.plan import llm_parameters
    from lightning_apollo.study.report import report_study
    from lightning_apollo.study.score import LOG, last_line, read_score

    console = Console()
    llm_parameters(study, runs)  # their order is wrong now or never
    missing = [run for run in runs if read_score(run) is None]
    with bars(console=console) as progress:
        for recipe in {run.recipe.data.root: run.recipe for run in missing}.values():
            rendering = progress.add_task("render videos", total=None)
            render_study_data(
                recipe, lambda done, total, task=rendering: progress.update(task, completed=done, total=total)
            )
            progress.update(rendering, visible=False)
        task = progress.add_task("runs", total=len(runs), completed=len(runs) - len(missing))

        def tell(run: StudyRun, score: StudyScore | None) -> None:
            shown = "failed" if score is None else f"{score.scores[study.score]:.3f}"
            console.print(f"{run.name}: {shown}", highlight=False, soft_wrap=True)
            progress.advance(task)

        failed = run_all(missing, jobs, cli_command(name, threads), threads, tell)
    if len(failed) < len(runs):
        report_study(study, runs, console)
    for run in failed:
        line = f"{run.name} failed: {last_line(run)} (all of it: {run.folder / LOG})"
        Console(stderr=True, soft_wrap=True, highlight=False).print(line, style="red", markup=False)
    return bool(failed)


def _print_slurm(name: str, study: Study, runs: Sequence[StudyRun]) -> None:
    from lightning_apollo.study.jobs import slurm_script
    from lightning_apollo.study.score import read_score

    missing = [run for run in runs if read_score(run) is None]
    if missing:
        typer.echo(slurm_script(name, study.name, study.output, missing), nl=False)
    else:
        typer.echo("nothing is missing", err=True)
