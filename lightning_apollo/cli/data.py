"""The commands of `lightning-apollo data`. What they call is imported when they run: `--help` loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo.cli.data_index import (
    INDEX_EPILOG,
    MERGE_EPILOG,
    Deadline,
    IndexMergeGroup,
    Jobs,
    Root,
    UnknownKeys,
    build_under_bar,
    index,
    index_merge,
)
from lightning_apollo.cli.options import Overrides, RecipeArgument, RecipeOption
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.progress import progress_bar
from lightning_apollo.recipe.conf import recipe_file
from lightning_apollo.recipe.early_checks import require_data, require_files, require_manifests, require_recipe

app = typer.Typer(
    cls=IndexMergeGroup,
    help="Know the data before a run: an index of every row and media file, what is broken, what it costs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SCAN_EPILOG = """[bold]Examples[/bold]

lightning-apollo data scan train.jsonl --root videos

lightning-apollo data scan runs/index --max-error-share 0.001 --csv broken.csv
"""
TUNE_EPILOG = """[bold]Examples[/bold]

lightning-apollo data tune videollama3-tiny

lightning-apollo data tune my_recipe.yaml --stage video_centric_fine_tuning --seconds 10 --step-seconds 1.5
"""
CALIBRATE_EPILOG = """[bold]Example[/bold]

lightning-apollo data calibrate videollama3-2b --stage multi_task_fine_tuning
"""


StageOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Stage of the recipe. Not given: its last.", show_default=False)
]
app.command(epilog=INDEX_EPILOG)(index)
app.command("index merge", epilog=MERGE_EPILOG)(index_merge)


@app.command(epilog=SCAN_EPILOG)
def scan(
    paths: Annotated[
        list[str], typer.Argument(metavar="INDEX|MANIFEST...", help="The folder of an index, or manifests.")
    ],
    max_error_share: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Broken rows of a source that are still fine.")
    ] = 0.01,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="List every broken row there.", show_default=False)
    ] = None,
    root: Root = ".",
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Decode nothing: quick, but corrupt pixels are not found.")
    ] = False,
    jobs: Jobs = None,
    deadline: Deadline = 60.0,
    unknown_keys: UnknownKeys = "refuse",
    debug: Debug = False,
) -> None:
    """Show what is broken, and why, in every source.

    Decodes each file as training would, one frame a second of a video, and so takes about as long as the loader does for an
    epoch. Ends with code 1 where the share of broken rows of a source is above --max-error-share. An index is taken as it is.
    """
    with errors_in_one_line(debug):
        require_video()
        if len(paths) != 1 or not Path(paths[0]).is_dir():
            require_manifests(paths, root)
        import tempfile

        from lightning_apollo.cli.data_tables import ignored_lines, scan_table
        from lightning_apollo.cli.indexing import Plain
        from lightning_apollo.data.index.scan import scan as report
        from lightning_apollo.data.index.scan import write_broken
        from lightning_apollo.data.index.tables import Index
        from lightning_apollo.data.media.media_check import probe_and_decode
        from lightning_apollo.data.media.video import probe

        with tempfile.TemporaryDirectory() as folder:
            if len(paths) == 1 and Path(paths[0]).is_dir():
                made = Index(Path(paths[0]))
            else:
                check = probe if headers_only else probe_and_decode
                made = build_under_bar(
                    Plain(paths, root, unknown_keys).sources(), Path(folder), jobs, deadline, check=check
                )
            reports = report(made)
            Console().print(scan_table(reports, max_error_share))
            for line in ignored_lines(made):
                Console().print(line, highlight=False, soft_wrap=True, markup=False)
            if csv is not None:
                write_broken(made, csv)
    if any(source.share > max_error_share for source in reports):
        raise typer.Exit(1)


@app.command()
def show(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of an index.", show_default=False)],
    overrides: Overrides = None,
    recipe: RecipeOption = None,
    stage: StageOption = None,
    debug: Debug = False,
) -> None:
    """Show what the sources hold; with a recipe, what their samples cost in one of its stages."""
    with errors_in_one_line(debug):
        require_files([index])
        if recipe is not None:
            recipe_file(recipe)
            require_recipe(recipe, overrides or ())
        from lightning_apollo.cli.data_tables import open_recipe, show_costs, show_text
        from lightning_apollo.data.index.tables import Index

        console, opened = Console(), Index(index)
        if recipe is None:
            console.print(show_text(opened))
        else:
            console.print(show_costs(opened, open_recipe(recipe, overrides or []), stage))


@app.command()
def formats() -> None:
    """List the files and the formats of rows that are read, with an example of each."""
    import json

    from rich.table import Table

    from lightning_apollo.data.annotations.formats import FILES, FORMATS

    console = Console()
    files = Table("file", "rows", box=None, padding=(0, 3, 0, 0))
    for names, rows in FILES.items():
        files.add_row(names, rows)
    console.print(files)
    for form in FORMATS:
        console.print(f"\n[bold]{form.name}[/bold]: rows with {', '.join(form.keys)}", highlight=False)
        console.print(f"[dim]{form.source}[/dim]", highlight=False)
        console.print(json.dumps(form.example), markup=False, highlight=False)


@app.command(epilog=TUNE_EPILOG)
def tune(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: StageOption = None,
    seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Reading of each setting, when its processes have started."),
    ] = 3.0,
    step_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1e-3,
            help="What an optimizer step takes without data; then no more than it needs.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure the loader with several numbers of processes and decoder threads, and recommend one.

    Reads the recipe's own data, prepared as in training, and nothing else. The cheapest setting within 5 % of the best is
    recommended, or with --step-seconds the cheapest that training does not wait for.
    """
    with errors_in_one_line(debug):
        require_video()
        require_data(recipe, overrides or (), stage)
        require_recipe(recipe, overrides or ())
        from lightning_apollo.cli.data_tables import choose_stage, open_recipe
        from lightning_apollo.cli.tables import tuning
        from lightning_apollo.runs import tune as tuner

        opened = open_recipe(recipe, overrides or []).recipe
        name, num_cores = choose_stage(opened, stage), tuner.cores_of_a_rank(opened)
        tried = tuner.settings(num_cores)
        needed = None if step_seconds is None else tuner.needed_batches(opened, name, step_seconds)
        with progress_bar("settings", Console(stderr=True), is_transient=True) as report:
            measured = tuner.measure_settings(opened, name, tried, seconds, report)
        Console().print(tuning(measured, tuner.recommend(measured, needed), num_cores, needed))


@app.command(epilog=CALIBRATE_EPILOG)
def calibrate(
    recipe: RecipeArgument, overrides: Overrides = None, stage: StageOption = None, debug: Debug = False
) -> None:
    """Measure what patches and tokens cost on this device: the constants of data.cost, which packing balances by.

    Times forward and backward of the stage's model with random weights, on the device that training would use. Nothing is
    read or written.
    """
    with errors_in_one_line(debug):
        require_video()
        recipe_file(recipe)
        require_recipe(recipe, overrides or ())
        from lightning_apollo.cli.data_tables import choose_stage, open_recipe
        from lightning_apollo.cli.tables import calibration
        from lightning_apollo.runs import calibrate as calibrator

        opened = open_recipe(recipe, overrides or []).recipe
        name = choose_stage(opened, stage)
        with progress_bar("rounds", Console(stderr=True), is_transient=True) as report:
            found = calibrator.calibrate(opened, name, progress=report)
        Console().print(calibration(found, name))
