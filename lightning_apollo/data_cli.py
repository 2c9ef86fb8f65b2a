"""The commands of `lightning-apollo data`. What they call is imported when they run: `--help` loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lightning_apollo.paths import recipe_names
from lightning_apollo.user_errors import Debug, errors_in_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_apollo.data.dataset import Source
    from lightning_apollo.data.index import Index
    from lightning_apollo.data.index_tokens import TextCounter

app = typer.Typer(
    help="Know the data before a run: an index of every row and media file, what is broken, what it costs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

INDEX_EPILOG = """[bold]Examples[/bold]

lightning-apollo data index train.jsonl --root videos --output runs/index

lightning-apollo data index --recipe videollama3-tiny data.root=runs/shapes
"""
SCAN_EPILOG = """[bold]Examples[/bold]

lightning-apollo data scan train.jsonl --root videos

lightning-apollo data scan runs/index --max-error-share 0.001 --csv broken.csv
"""


def _complete_recipe(incomplete: str) -> list[str]:
    return [name for name in recipe_names() if name.startswith(incomplete)]


RecipeOption = Annotated[
    str | None,
    typer.Option(
        metavar="RECIPE",
        help="Name of a recipe in conf/recipe, or the path of a .yaml file.",
        autocompletion=_complete_recipe,
        show_default=False,
    ),
]
Root = Annotated[Path, typer.Option(metavar="DIR", help="Folder that media paths start from and may not leave.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Processes that probe. Not given: one a core. 0: this one, without a deadline.",
        show_default=False,
    ),
]
Deadline = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="A file whose probe takes longer counts as broken.")
]


@app.command(epilog=INDEX_EPILOG)
def index(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MANIFEST|KEY=VALUE...", help="Manifests; with --recipe, its values.", show_default=False
        ),
    ] = None,
    recipe: RecipeOption = None,
    root: Root = Path("."),
    output: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", help="Folder of the index: runs/index, or OUTPUT/index of the recipe."),
    ] = None,
    jobs: Jobs = None,
    deadline: Deadline = 30.0,
    debug: Debug = False,
) -> None:
    """Read every row and probe every media file once, headers only.

    Writes media.parquet and samples.parquet. A call that was killed goes on where it was; a later one probes only files
    that are new or have changed. With a recipe, all its sources are indexed and tokens of text are counted.
    """
    with errors_in_one_line(debug):
        from lightning_apollo.data_report import Plain, one_line, open_recipe

        if recipe is None:
            plain = Plain(words or [], root)
            made = _build(plain.sources(), output or Path("runs/index"), jobs, deadline)
        else:
            opened = open_recipe(recipe, words or [])
            folder = output or Path(opened.recipe.output) / "index"
            made = _build(opened.sources(), folder, jobs, deadline, opened.text())
        Console().print(one_line(made), highlight=False, soft_wrap=True)


@app.command(epilog=SCAN_EPILOG)
def scan(
    paths: Annotated[
        list[Path], typer.Argument(metavar="INDEX|MANIFEST...", help="The folder of an index, or manifests.")
    ],
    max_error_share: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Broken rows of a source that are still fine.")
    ] = 0.01,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="List every broken row there.", show_default=False)
    ] = None,
    root: Root = Path("."),
    jobs: Jobs = None,
    deadline: Deadline = 30.0,
    debug: Debug = False,
) -> None:
    """Show what is broken, and why, in every source.

    Ends with code 1 where the share of broken rows of a source is above --max-error-share. Headers are read, pixels are
    not: a file that is corrupt in its middle is found by training alone.
    """
    with errors_in_one_line(debug):
        import tempfile

        from lightning_apollo.data.index import Index
        from lightning_apollo.data.index_scan import scan as report
        from lightning_apollo.data.index_scan import write_broken
        from lightning_apollo.data_report import Plain, scan_table

        with tempfile.TemporaryDirectory() as folder:
            if len(paths) == 1 and paths[0].is_dir():
                made = Index(paths[0])
            else:
                made = _build(Plain([str(path) for path in paths], root).sources(), Path(folder), jobs, deadline)
            reports = report(made)
            Console().print(scan_table(reports, max_error_share))
            if csv is not None:
                write_broken(made, csv)
    if any(source.share > max_error_share for source in reports):
        raise typer.Exit(1)


@app.command()
def show(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of an index.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values of the recipe.", show_default=False)
    ] = None,
    recipe: RecipeOption = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Stage of the recipe. Not given: its last.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what the sources hold; with a recipe, what their samples cost in one of its stages."""
    with errors_in_one_line(debug):
        from lightning_apollo.data.index import Index
        from lightning_apollo.data_report import open_recipe, show_costs, show_text

        console, opened = Console(), Index(index)
        if recipe is None:
            console.print(show_text(opened))
        else:
            console.print(show_costs(opened, open_recipe(recipe, overrides or []), stage))


def _build(
    sources: Sequence[Source], folder: Path, jobs: int | None, deadline: float, text: TextCounter | None = None
) -> Index:
    """The index, made under a progress bar."""
    import os

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from lightning_apollo.data.index_build import build_index

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[errors]} broken"), TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {what: progress.add_task(what, total=None, errors=0) for what in ("rows", "files")}
        return build_index(
            sources,
            folder,
            len(os.sched_getaffinity(0)) if jobs is None else jobs,
            deadline,
            text,
            progress=lambda what, done, total, errors: progress.update(
                tasks[what], completed=done, total=total, errors=errors
            ),
        )
