"""`lightning-apollo import`, `export` and `merge`. What they call is imported when they run: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.conf import recipe_file
from lightning_apollo.recipe.early_checks import require_files, require_recipe, require_trained, require_weights

IMPORT_EPILOG = """[bold]Examples[/bold]

lightning-apollo import DAMO-NLP-SG/VideoLLaMA3-2B videollama3-2b.safetensors --recipe videollama3-2b

lightning-apollo import google/siglip-so400m-patch14-384 siglip.safetensors --part vision

lightning-apollo import SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2 --part llm
"""
EXPORT_EPILOG = """[bold]Examples[/bold]

lightning-apollo export runs/mine/video_centric_fine_tuning exported --verify

lightning-apollo export videollama3-tiny exported --stage multi_task_fine_tuning
"""
MERGE_EPILOG = """[bold]Example[/bold]

lightning-apollo merge runs/mine/fine_tuning/adapter.safetensors merged.safetensors --base videollama3-2b.safetensors
"""


def import_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder or a hub name.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="A .safetensors file, or a folder: with --part llm one of transformers."),
    ],
    part: Annotated[str, typer.Option(metavar="PART", help="vision, llm or all: what to take of it.")] = "all",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Check against the model of this recipe, not against itself.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Read published weights: SigLIP, VL3-SigLIP-NaViT, VideoLLaMA 3 in any layout, a Llama-like LLM, a GGUF file.

    Every tensor is used, or listed with why not; a missing, unknown or wrong one is an error. import.json has the list.
    """
    with errors_in_one_line(debug):
        require_weights(source)
        if recipe is not None:
            recipe_file(recipe)
        from lightning_apollo.recipe.schema import load_recipe

        model = None if recipe is None else load_recipe(recipe).model
        from lightning_apollo.weights.importing import import_weights

        report = import_weights(source, output, part, model)
        for line in report.lines():
            Console().print(line, markup=False, highlight=False, soft_wrap=True)


def export_command(
    target: Annotated[
        str, typer.Argument(metavar="RECIPE|STAGE_FOLDER", help="What was trained: a recipe, or a stage's folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to write, which is not there yet.")],
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="The stage, where it is not the last.", show_default=False)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Then run the folder in plain transformers and compare its answers.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a trained model for plain transformers, with a run card and a fixture that proves it answers the same.

    An Apollo, for which transformers has no class, is written for our own loader.
    """
    with errors_in_one_line(debug):
        require_video()
        require_trained(target, stage=stage)
        require_recipe(target)
        from lightning_apollo.inference.trained import find_stage_of, trained_weights
        from lightning_apollo.weights.exporting import export_stage
        from lightning_apollo.weights.verify import verify as check

        recipe, name = find_stage_of(target, stage=stage)
        export_stage(recipe, name, trained_weights(recipe, name), output)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"{output}: written", markup=False)
        if verify:
            found = check(output)
            console.print(
                f"{found.loader} gives the same pixels, token ids and answers in {found.num_cases} cases; "
                f"logits differ by {found.max_logit_difference:.1e} at most",
                markup=False,
            )


def merge_command(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="adapter.safetensors of a finished stage, or the stage's folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.safetensors", help="The file to write.")],
    base: Annotated[
        str,
        typer.Option(metavar="WEIGHTS", help="What the stage started from: what its `init` names.", show_default=False),
    ],
    debug: Debug = False,
) -> None:
    """Put what a stage with adapters trained onto the weights that it started from.

    The stage's own model.safetensors is that already: this is for an adapter that travels alone.
    """
    with errors_in_one_line(debug):
        require_files([adapter])
        require_weights(base)
        from lightning_apollo.models.checkpoint.adapter import merge_files
        from lightning_apollo.models.checkpoint.files import ADAPTER

        path = adapter / ADAPTER if adapter.is_dir() else adapter
        Console().print(f"{output}: {merge_files(base, path, output)} tensors", highlight=False, soft_wrap=True)
