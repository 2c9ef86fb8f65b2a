"""`lightning-apollo new`. What it calls is imported when it runs: `--help` loads no torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.early_checks import require_files

NEW_EPILOG = """[bold]Examples[/bold]

lightning-apollo new mytask --data my.jsonl --root clips --from videollama3-2b.safetensors

lightning-apollo new moments --data moments.jsonl --template grounding --from runs/mine/video_centric_fine_tuning
"""


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Of the task: NAME.yaml is written, results go to runs/NAME.")
]
Data = Annotated[
    list[Path],
    typer.Option(metavar="FILE.jsonl", help="Questions and answers, in a format of docs/data.md; may be given again."),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="ROOT",
        help="What media paths start from. Not given: the folder of the first FILE.",
        show_default=False,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="Start from this: weights that `import` wrote, or the folder of a finished stage.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        help="connector, lora, full, video or grounding. Not given: what fits the data.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE.yaml", help="The recipe to write: NAME.yaml.", show_default=False)
]
UnknownKeys = Annotated[
    str,
    typer.Option(metavar="refuse|ignore", help="Keys of rows that are not read: data.unknown_keys of the recipe."),
]


def new_command(
    name: Name,
    data: Data,
    root: Root = None,
    start: Start = None,
    template: Template = None,
    output: Output = None,
    unknown_keys: UnknownKeys = "refuse",
    debug: Debug = False,
) -> None:
    """Write a recipe that fine-tunes on your own data, after a look at them, and say what to run next.

    Every row is read and every file probed; frames, budget and steps are chosen to fit, each with its reason beside it.
    """
    with errors_in_one_line(debug):
        require_video()
        require_files([*data, *([root] if root and "://" not in root and "{" not in root else ())])
        from lightning_apollo.new_task.new import Task, write_recipe
        from lightning_apollo.new_task.report import new_task_tables, next_commands
        from lightning_apollo.progress import preparation_progress

        manifests = tuple(str(path) for path in data)
        task = Task(name, manifests, root or str(data[0].parent), start, template, unknown_keys)
        written = write_recipe(task, output or Path(f"{name}.yaml"), preparation_progress)
        console = Console(highlight=False)
        console.print(new_task_tables(written))
        console.print("\nwhat to run next")
        for what, command in next_commands(task, written).items():
            console.print(f"# {what}", style="dim")
            console.print(command, markup=False, soft_wrap=True)  # on one line, to be copied
