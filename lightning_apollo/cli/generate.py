"""`lightning-apollo generate` and `chat`. What they call is imported when they run: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer

from lightning_apollo.cli.options import Checkpoint, Overrides
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.packages import extra_command
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.early_checks import require_files, require_recipe, require_trained

GENERATE_EPILOG = """[bold]Examples[/bold]

lightning-apollo generate runs/mine/video_centric_fine_tuning --video v.mp4 --prompt "What happens?"

lightning-apollo generate runs/mine/video_centric_fine_tuning --video v.mp4 --from 12 --to 20.5 --prompt "Describe it."

lightning-apollo generate videollama3-tiny --image a.png --image b.png --prompt "<image> Before, <image> after: what changed?"

lightning-apollo generate CHECKPOINT data.budget.token_budget=4096 --video v.mp4 --prompt "Tell it." --temperature 0.7 --top-p 0.9
"""
CHAT_EPILOG = """[bold]Examples[/bold]

lightning-apollo chat runs/mine/video_centric_fine_tuning

lightning-apollo chat exported --examples clips --port 8000

lightning-apollo chat videollama3-tiny output=runs/demo/full data.root=runs/demo/shapes --examples runs/demo/shapes/clips
"""

MaxNewTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Tokens after which it ends.")]
Temperature = Annotated[float, typer.Option(metavar="T", min=0, help="0 takes the likeliest token, more draws.")]
TopP = Annotated[
    float, typer.Option(metavar="P", min=1e-6, max=1, help="Draw from the likeliest that together reach this.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the draws.")]


def generate_command(
    checkpoint: Checkpoint,
    prompt: Annotated[
        str,
        typer.Option(metavar="TEXT", help="The question; <video> and <image> in it say where the media go, in order."),
    ],
    overrides: Overrides = None,
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
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Ask a trained model about videos and images; the answer appears as it is written.

    Media that the prompt does not place come in front of it, images first.
    """
    with errors_in_one_line(debug):
        require_video()
        require_files([*(video or ()), *(image or ())])
        require_trained(checkpoint, overrides or ())
        require_recipe(checkpoint, overrides or ())
        import torch

        from lightning_apollo.inference.answer import question, stream_answer
        from lightning_apollo.inference.generate import DrawConfig
        from lightning_apollo.inference.trained import load_checkpoint

        asked = question(prompt, video or (), image or (), begin_seconds, end_seconds)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        trained = load_checkpoint(checkpoint, overrides or (), device)
        cuts: list[str] = []
        line = f"stopped at --max-new-tokens {max_new_tokens}: give a larger number for the rest of the answer"
        draw = DrawConfig(temperature, top_p, seed)
        for text in stream_answer(trained, asked, max_new_tokens, draw, at_limit=lambda: cuts.append(line)):
            typer.echo(text, nl=False)
        typer.echo()
        for cut in cuts:  # behind the answer, and not in it
            typer.echo(cut, err=True)


Host = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets other machines in, without a password."),
]


def chat_command(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=65535, help="The first free one from 7860 on.", show_default=False),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="A public address through gradio's servers: anyone who has it can ask.")
    ] = False,
    max_upload_mb: Annotated[int, typer.Option(metavar="MB", min=1, help="What may be uploaded at once.")] = 200,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Videos and images that the page offers.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Ask a trained model in the browser: upload, ask, and see the frames that it saw.

    Uploads are deleted when the page ends, with Ctrl-C.
    """
    with errors_in_one_line(debug):
        require_video()
        require_trained(checkpoint, overrides or ())
        require_recipe(checkpoint, overrides or ())
        from lightning_apollo.errors import RecipeError

        try:
            from lightning_apollo.inference.chat.page import ChatConfig, run_chat
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise RecipeError(f"the page needs gradio: {extra_command('chat')}") from error
        import torch

        from lightning_apollo.inference.generate import DrawConfig
        from lightning_apollo.inference.trained import load_checkpoint

        device = "cuda" if torch.cuda.is_available() else "cpu"
        trained = load_checkpoint(checkpoint, overrides or (), device)
        draw = DrawConfig(temperature, top_p, seed)
        title = f"lightning-apollo · {Path(checkpoint).name}"
        config = ChatConfig(title, host, port, share, max_upload_mb, examples, max_new_tokens, draw)
        try:
            run_chat(trained, config, typer.echo)
        except OSError as error:
            raise RecipeError(f"the page cannot listen there, choose another --host or --port: {error}") from error
