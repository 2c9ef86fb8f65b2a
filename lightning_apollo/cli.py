"""The command line. Each command calls one function elsewhere and imports it when it runs: `--help` loads no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo import __version__
from lightning_apollo.paths import recipe_names

app = typer.Typer(
    name="lightning-apollo",
    help="Train video language models (VideoLLaMA 3) on PyTorch Lightning, from a laptop to many nodes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

FIT_EPILOG = """[bold]Examples[/bold]

lightning-apollo fit videollama3-tiny

lightning-apollo fit videollama3-2b data.manifests=\\[train.jsonl,more.json] data.root=videos output=runs/mine

lightning-apollo fit my_recipe.yaml --stage video_centric_fine_tuning seed=1
"""
EXPLAIN_EPILOG = """[bold]Examples[/bold]

lightning-apollo explain videollama3-7b

lightning-apollo explain videollama3-2b trainer.num_nodes=4 trainer.devices=8
"""


def _complete_recipe(incomplete: str) -> list[str]:
    return [name for name in recipe_names() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe in conf/recipe, or the path of a .yaml file.",
        autocompletion=_complete_recipe,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values to put in the place of the recipe's.", show_default=False),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def _errors_in_one_line(debug: bool) -> Iterator[None]:
    """Prints what the user can put right as one red line and leaves with code 2; other errors keep their traceback."""
    try:
        yield
    except Exception as error:
        if debug or not isinstance(error, _user_errors()):
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _user_errors() -> tuple[type[Exception], ...]:
    from lightning_apollo.data.manifest import ManifestError
    from lightning_apollo.data.order import TooFewSamples
    from lightning_apollo.data.quarantine import TooManyBadSamples
    from lightning_apollo.layers import RecipeError
    from lightning_apollo.structures import MediaError

    return RecipeError, ManifestError, MediaError, TooFewSamples, TooManyBadSamples


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"lightning-apollo {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options before the command."""


@app.command(epilog=FIT_EPILOG)
def fit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train this stage alone, here in this process.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train the stages of a recipe, one after the other.

    Every stage writes its own folder below the recipe's [bold]output[/bold]; a finished one is not trained again.
    """
    with _errors_in_one_line(debug):
        from lightning_apollo.config import load_recipe
        from lightning_apollo.fit import run_recipe

        run_recipe(load_recipe(recipe, overrides or ()), stage)


@app.command(epilog=EXPLAIN_EPILOG)
def explain(recipe: RecipeArgument, overrides: Overrides = None, debug: Debug = False) -> None:
    """Show what each stage of a recipe trains, at which rate, on which data, and how much memory its state takes.

    Nothing is trained, downloaded or allocated.
    """
    with _errors_in_one_line(debug):
        from lightning_apollo.config import load_recipe
        from lightning_apollo.explain import explain as describe

        Console().print(describe(load_recipe(recipe, overrides or ())))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the weights, the report and the metrics.")] = Path(
        "runs/demo"
    ),
    debug: Debug = False,
) -> None:
    """Train a tiny VideoLLaMA 3 on rendered videos through all four stages, and compare it with two baselines.

    Takes 6 to 8 minutes on two CPU cores and writes report.html and metrics.json.
    """
    with _errors_in_one_line(debug):
        from lightning_apollo.demo import run

        run(output)


@app.command()
def doctor() -> None:
    """Check that this machine has what a run needs: packages, FFmpeg, GPU, a decode of a real clip."""
    from lightning_apollo.doctor import diagnose

    report = diagnose()
    Console().print(report.table())
    raise typer.Exit(0 if report.is_ready else 1)


if __name__ == "__main__":
    app()
