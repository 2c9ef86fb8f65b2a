"""`lightning-apollo generate`. What it calls is imported when it runs: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer

from lightning_apollo.user_errors import Debug, errors_in_one_line

GENERATE_EPILOG = """[bold]Examples[/bold]

lightning-apollo generate runs/mine/video_centric_fine_tuning --video v.mp4 --prompt "What happens?"

lightning-apollo generate runs/mine/video_centric_fine_tuning --video v.mp4 --from 12 --to 20.5 --prompt "Describe it."

lightning-apollo generate videollama3-tiny --image a.png --image b.png --prompt "<image> Before, <image> after: what changed?"

lightning-apollo generate CHECKPOINT data.budget.token_budget=4096 --video v.mp4 --prompt "Tell it." --temperature 0.7 --top-p 0.9
"""


def generate_command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder of a finished stage, or a recipe for its last stage.")
    ],
    prompt: Annotated[
        str,
        typer.Option(metavar="TEXT", help="The question; <video> and <image> in it say where the media go, in order."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Values to put in the place of the recipe's.", show_default=False
        ),
    ] = None,
    video: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A video; may be given again.", show_default=False)
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="An image; may be given again.", show_default=False)
    ] = None,
    begin_seconds: Annotated[
        float | None,
        typer.Option("--from", metavar="SECONDS", help="Show the video from here on.", show_default=False),
    ] = None,
    end_seconds: Annotated[
        float | None, typer.Option("--to", metavar="SECONDS", help="Show the video up to here.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens after which it ends.")] = 256,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0, help="0 takes the likeliest token, more draws.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="P", min=1e-6, max=1, help="Draw from the likeliest that together reach this.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draws.")] = 0,
    debug: Debug = False,
) -> None:
    """Ask a trained model about videos and images; the answer appears as it is written.

    Media that the prompt does not place come in front of it, images first.
    """
    with errors_in_one_line(debug):
        import torch

        from lightning_apollo.inference.answer import question, stream_answer
        from lightning_apollo.inference.generate import DrawConfig
        from lightning_apollo.inference.trained import load_checkpoint

        asked = question(prompt, video or (), image or (), begin_seconds, end_seconds)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        trained = load_checkpoint(checkpoint, overrides or (), device)
        for text in stream_answer(trained, asked, max_new_tokens, DrawConfig(temperature, top_p, seed)):
            typer.echo(text, nl=False)
        typer.echo()
