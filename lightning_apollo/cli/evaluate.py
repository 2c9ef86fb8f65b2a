"""`lightning-apollo evaluate run` and `evaluate list`. Heavy packages are imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from lightning_apollo.cli.options import Checkpoint, Overrides
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.evaluation.asked import require_asked
from lightning_apollo.evaluation.judge import KEY_VARIABLE, require_judge
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.early_checks import require_recipe, require_trained


class _RunByDefault(TyperGroup):
    """A group in which `evaluate CHECKPOINT ...` means `evaluate run CHECKPOINT ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        is_command = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if is_command else ["run", *args])


app = typer.Typer(
    cls=_RunByDefault,
    help="Evaluate on benchmarks, and work with the results. [bold]run[/bold] may be left out: evaluate CHECKPOINT ...",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

RUN_EPILOG = """[bold]Examples[/bold]

lightning-apollo evaluate runs/mine/video_centric_fine_tuning --benchmark mvbench --data benchmarks/MVBench

lightning-apollo evaluate runs/mine/fine_tuning --data my_val.jsonl --root clips --compare runs/other/fine_tuning

lightning-apollo evaluate run runs/mine/video_centric_fine_tuning data.budget.token_budget=16384 --benchmark mlvu --data MLVU

lightning-apollo evaluate CHECKPOINT --benchmark chartqa --data ChartQA --rule paper --judge-url http://x:8000/v1 --judge-model NAME

lightning-apollo evaluate run videollama3-tiny --benchmark shapes --data runs/demo/shapes --modes full,single_frame,blind

torchrun --nproc-per-node 8 -m lightning_apollo evaluate run CHECKPOINT --benchmark mlvu --data benchmarks/MLVU
"""


Data = Annotated[
    list[str],
    typer.Option(
        metavar="FOLDER|FILE",
        help="Where the benchmark's published files lie; without --benchmark, own rows in a format of docs/data.md, "
        "and the option may be given again.",
    ),
]
BenchmarkName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="One of `evaluate list`. Not given: own rows.", show_default=False),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="ROOT",
        help="What media paths of own rows start from. Not given: the folder of the first FILE.",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How own rows are scored: exact, choice, span, f1, number or relaxed. Not given: by the form of the "
        "expected answers.",
        show_default=False,
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT",
        help="A second model, asked the same: the paired difference with its interval.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where answers and tables go: evaluation/NAME in the stage's.", show_default=False
    ),
]
Modes = Annotated[str, typer.Option(metavar="MODES", help="What the model sees: some of full,single_frame,blind.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask the first N questions.", show_default=False)]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Questions answered together.")]
Rule = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="How a benchmark is scored: as its organisers do, or by the rule of the paper's figures.",
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=f"OpenAI-compatible endpoint that judges answers for --rule paper; its key is {KEY_VARIABLE} in the "
        "environment.",
        show_default=False,
    ),
]
JudgeModel = Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask there.", show_default=False)]


@app.command(epilog=RUN_EPILOG)
def run(
    checkpoint: Checkpoint,
    data: Data,
    benchmark: BenchmarkName = None,
    root: Root = None,
    metric: Metric = None,
    compare: Compare = None,
    overrides: Overrides = None,
    output: Output = None,
    modes: Modes = "full",
    limit: Limit = None,
    batch_size: BatchSize = 8,
    rule: Rule = "organisers",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    debug: Debug = False,
) -> None:
    """Evaluate a trained model on a benchmark, beside the scores of the papers, or on your own held-out rows.

    A stopped run resumes when it is started again: only what has no answer yet is asked.
    """
    with errors_in_one_line(debug):
        require_video()
        words = overrides or ()
        checkpoints = [checkpoint, *([compare] if compare else ())]
        for asked in checkpoints:
            require_trained(asked, words)
        folder = require_asked(data, benchmark, root, metric)
        judge = require_judge(rule, benchmark, judge_url, judge_model, compares=compare is not None)
        for asked in checkpoints:
            require_recipe(asked, words)
        from lightning_apollo.evaluation.run import EvaluationConfig

        config = EvaluationConfig(tuple(modes.split(",")), limit, batch_size, rule, judge)
        if benchmark is None:
            from lightning_apollo.evaluation.own.checkpoint import evaluate_own
            from lightning_apollo.evaluation.own.rows import OwnRowsConfig

            rows = OwnRowsConfig(tuple(data), folder, metric)
            evaluate_own(checkpoint, words, rows, output, config, Console(), compare)
        else:
            from lightning_apollo.evaluation.checkpoint import evaluate_checkpoint

            evaluate_checkpoint(checkpoint, words, benchmark, Path(folder), output, config, Console(), compare)


@app.command("list")
def list_benchmarks() -> None:
    """Show the benchmarks that can be asked, and what their folders hold."""
    from lightning_apollo.evaluation.registry import BENCHMARKS

    table = Table("name", "benchmark", "published files")
    for benchmark in BENCHMARKS.values():
        table.add_row(benchmark.name, benchmark.title, benchmark.files)
    Console().print(table)
