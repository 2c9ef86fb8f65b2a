"""`lightning-apollo inspect`. What it calls is imported when it runs: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer

from lightning_apollo.cli.options import Overrides, RecipeArgument
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.early_checks import require_data

INSPECT_EPILOG = """[bold]Examples[/bold]

lightning-apollo inspect videollama3-tiny

lightning-apollo inspect my_recipe.yaml --stage video_centric_fine_tuning --sample 12 --output sample.html

lightning-apollo inspect my_recipe.yaml data.budget.token_budget=4096 --id train.jsonl:17
"""


def inspect_command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Stage of the recipe; the last one if not given.", show_default=False),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="I", help="Its number in the order in which the first epoch draws samples, from 0.")
    ] = 0,
    sample_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Its id, as quarantine.jsonl has it, in the place of --sample.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html", help="The page; inspect/ in the stage's folder if not given.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a web page of one training sample exactly as the model gets it.

    It has the frames with their times, kept and dropped patches, the text with its label mask, what it costs, and the
    micro-batch around it. Built-in data are rendered, and an index is made where the stage packs; nothing is trained.
    """
    with errors_in_one_line(debug):
        require_video()
        require_data(recipe, overrides or (), stage)
        from lightning_apollo.recipe.schema import load_recipe

        loaded = load_recipe(recipe, overrides or ())
        from lightning_apollo.inspection.page import write_inspection_page
        from lightning_apollo.inspection.sample import inspect_sample
        from lightning_apollo.runs.stage_folder import stage_folder
        from lightning_apollo.runs.trained_recipe import changes_since

        name = stage or list(loaded.stages)[-1]
        if changed := changes_since(Path(loaded.output), name, loaded):
            typer.echo(f"stage {name} was trained with another recipe than the one that is shown: {changed}", err=True)
        inspected = inspect_sample(loaded, name, sample, sample_id)
        path = output or stage_folder(loaded, name) / "inspect" / f"sample-{inspected.place.number}.html"
        typer.echo(write_inspection_page(inspected, path))
        typer.echo(str(path))
