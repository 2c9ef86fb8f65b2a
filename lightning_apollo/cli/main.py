"""The command line. Each command calls one function elsewhere and imports it when it runs: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo import __version__
from lightning_apollo.cli.data import app as data
from lightning_apollo.cli.evaluate import app as evaluate
from lightning_apollo.cli.generate import CHAT_EPILOG, GENERATE_EPILOG, chat_command, generate_command
from lightning_apollo.cli.inspect import INSPECT_EPILOG, inspect_command
from lightning_apollo.cli.new import NEW_EPILOG, new_command
from lightning_apollo.cli.options import AgainCommand, Overrides, RecipeArgument, complete_recipe
from lightning_apollo.cli.study import app as study
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.cli.weights import (
    EXPORT_EPILOG,
    IMPORT_EPILOG,
    MERGE_EPILOG,
    export_command,
    import_command,
    merge_command,
)
from lightning_apollo.machine.video_libraries import encode_and_decode, require_video
from lightning_apollo.recipe.conf import recipe_file
from lightning_apollo.recipe.early_checks import may_requeue, require_data, require_files, require_recipe
from lightning_apollo.runs.terminal import steady_terminal
from lightning_apollo.training.processes.launch import errors_to_all_ranks
from lightning_apollo.training.processes.signals import LISTENER

app = typer.Typer(
    name="lightning-apollo",
    help="Train video language models (VideoLLaMA 3, Apollo) on PyTorch Lightning, from a laptop to many nodes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate, name="evaluate")
app.add_typer(study, name="study")
app.add_typer(data, name="data")
app.command("inspect", epilog=INSPECT_EPILOG)(inspect_command)
app.command("new", epilog=NEW_EPILOG)(new_command)
app.command("import", epilog=IMPORT_EPILOG)(import_command)
app.command("generate", epilog=GENERATE_EPILOG)(generate_command)
app.command("chat", epilog=CHAT_EPILOG)(chat_command)
app.command("export", epilog=EXPORT_EPILOG)(export_command)
app.command("merge", epilog=MERGE_EPILOG)(merge_command)

FIT_EPILOG = """[bold]Examples[/bold]

lightning-apollo fit videollama3-tiny

lightning-apollo fit videollama3-2b data.manifests=\\[train.jsonl,more.json] data.root=videos output=runs/mine

lightning-apollo fit my_recipe.yaml --stage video_centric_fine_tuning seed=1

lightning-apollo fit videollama3-2b --resume

lightning-apollo fit my_recipe.yaml seed=1 --again=video_centric_fine_tuning
"""
CONSOLIDATE_EPILOG = """[bold]Example[/bold]

lightning-apollo consolidate runs/mine/my_stage/checkpoints/step-00001500.ckpt weights.safetensors
"""
CURATE_EPILOG = """[bold]Example[/bold]

lightning-apollo evaluate curate runs/*/results.jsonl --top 100 --output runs/curated
"""
EXPLAIN_EPILOG = """[bold]Examples[/bold]

lightning-apollo explain videollama3-7b

lightning-apollo explain videollama3-2b trainer.num_nodes=4 trainer.devices=8
"""


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


@app.command(cls=AgainCommand, epilog=FIT_EPILOG)
def fit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train this stage alone, here in this process.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint of a stage that was stopped.")
    ] = False,
    again: Annotated[
        str | None,
        typer.Option(
            "--again",
            metavar="[=STAGE]",
            help="Train STAGE and all after it again; what lies in their folders is moved aside (STAGE.1), never removed. "
            "Without =STAGE: from the first stage that is not finished with these settings and data, or the first of all.",
            show_default=False,
        ),
    ] = None,
    part_of_run: Annotated[bool, typer.Option("--part-of-run", hidden=True)] = False,
    debug: Debug = False,
) -> None:
    """Train the stages of a recipe, one after the other.

    Every stage writes its own folder below the recipe's [bold]output[/bold]; a finished one is not trained again. Where it was
    trained from other settings or data, nothing is trained until you name another output, or --again.
    """
    LISTENER.start()
    steady_terminal()
    with errors_in_one_line(debug), errors_to_all_ranks():
        LISTENER.may_requeue = may_requeue(recipe, overrides or ())
        require_video()
        require_data(recipe, overrides or (), stage, begins=True)
        from lightning_apollo.recipe.schema import load_recipe

        loaded = load_recipe(recipe, overrides or ())  # whose mistakes are answered before torch is imported
        from lightning_apollo.runs.fit import run_recipe
        from lightning_apollo.runs.next_steps import say_next_steps

        LISTENER.is_working = True
        run_recipe(loaded, stage, resume, again)
        if not part_of_run:  # of all stages, whose last words come from the process that started this one
            say_next_steps(loaded, stage, [recipe, *(overrides or ())])


@app.command(epilog=EXPLAIN_EPILOG)
def explain(recipe: RecipeArgument, overrides: Overrides = None, debug: Debug = False) -> None:
    """Show what each stage of a recipe trains, at which rate, on which data, and how much memory its state takes.

    Nothing is trained, downloaded or allocated.
    """
    with errors_in_one_line(debug):
        recipe_file(recipe)
        from lightning_apollo.recipe.schema import load_recipe

        loaded = load_recipe(recipe, overrides or ())
        from lightning_apollo.runs.explain import explain as describe

        Console().print(describe(loaded))


@app.command(epilog=CONSOLIDATE_EPILOG)
def consolidate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of a stage, file or folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.safetensors", help="The file to write.")],
    debug: Debug = False,
) -> None:
    """Write the weights of a checkpoint, whole or in the slices of many ranks, to one safetensors file.

    A finished stage has them already, in model.safetensors.
    """
    with errors_in_one_line(debug):
        require_files([checkpoint])
        from lightning_apollo.training.consolidate import consolidate as write

        Console().print(f"{output}: {write(checkpoint, output)} tensors", highlight=False, soft_wrap=True)


@app.command()
def demo(
    recipe: Annotated[
        str,
        typer.Argument(metavar="[RECIPE]", help="videollama3-tiny or apollo-tiny.", autocompletion=complete_recipe),
    ] = "videollama3-tiny",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the weights, the report and the metrics: runs/demo, or runs/demo-RECIPE."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a tiny VideoLLaMA 3, or Apollo, on rendered videos through all its stages, and compare it with two baselines.

    Takes 6 to 10 minutes on two CPU cores and writes report.html, metrics.json and results.jsonl.
    """
    with errors_in_one_line(debug):
        require_video()
        recipe_file(recipe)
        require_recipe(recipe)
        encode_and_decode()
        from lightning_apollo.demo import RECIPE, run_demo

        run_demo(output or Path("runs/demo" if recipe == RECIPE else f"runs/demo-{recipe}"), recipe)


@app.command()
def doctor() -> None:
    """Check that this machine has what a run needs: packages, FFmpeg, GPU, a decode of a real clip."""
    from lightning_apollo.machine.doctor import diagnose

    report = diagnose()
    Console().print(report.table())
    raise typer.Exit(0 if report.is_ready else 1)


@evaluate.command(epilog=CURATE_EPILOG)
def curate(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS.jsonl", help="Results of several models, each in all three modes."),
    ],
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Questions in all, shared over the categories.")] = 400,
    per_category: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Questions of every category, in the place of --top.", show_default=False
        ),
    ] = None,
    max_share_without_video: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="A question goes where more of the models are right from one frame, or from the text alone.",
        ),
    ] = 0.5,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the questions, report and plot go.")] = Path(
        "runs/curated"
    ),
    debug: Debug = False,
) -> None:
    """Choose the questions that need the video and tell models apart, as ApolloBench was made.

    Writes questions.csv, curated.jsonl, scores.png and report.md, and prints how well the choice repeats all scores.
    """
    with errors_in_one_line(debug):
        require_files(results)
        from lightning_apollo.evaluation.curate.choose import CurateConfig
        from lightning_apollo.evaluation.curate.report import run_curation

        run_curation(results, CurateConfig(top, per_category, max_share_without_video), output)


if __name__ == "__main__":
    app()
