"""`lightning-apollo data index` and `data index merge`. What they call is imported when they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from lightning_apollo.cli.options import RecipeOption
from lightning_apollo.cli.user_errors import Debug, errors_in_one_line
from lightning_apollo.machine.video_libraries import require_video
from lightning_apollo.recipe.early_checks import require_data, require_manifests, require_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_apollo.data.index.tables import Index
    from lightning_apollo.data.index.token_counts import TextCounter
    from lightning_apollo.data.media.probe_pool import Probe
    from lightning_apollo.data.source import Source

INDEX_EPILOG = """[bold]Examples[/bold]

lightning-apollo data index train.jsonl --root videos --output runs/index

lightning-apollo data index --recipe videollama3-tiny data.root=runs/shapes

lightning-apollo data index --shard 0/4 train.jsonl --root videos --output runs/index
"""
MERGE_EPILOG = """[bold]Example[/bold]

lightning-apollo data index merge train.jsonl --root videos --output runs/index
"""

Root = Annotated[
    str,
    typer.Option(
        metavar="ROOT",
        help="Folder, tar shards, or s3://, https://... etc., that media paths start from and may not leave.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Processes that probe. Not given: one a core. 0: this one, without a deadline.",
        show_default=False,
    ),
]
UnknownKeys = Annotated[
    str,
    typer.Option(
        metavar="refuse|ignore", help="Keys of rows that are not read: refuse the row, or ignore and count them."
    ),
]
Deadline = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="A file whose probe takes longer counts as broken.")
]
IndexWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="MANIFEST|KEY=VALUE...", help="Manifests; with --recipe, its values.", show_default=False),
]
IndexFolder = Annotated[
    Path | None,
    typer.Option(metavar="INDEX", help="Folder of the index: runs/index, or OUTPUT/index of the recipe."),
]
ShardWord = Annotated[
    str | None,
    typer.Option(
        metavar="i/n|auto",
        help="Do share i of n, i from 0, for `data index merge`. auto: a torchrun process's RANK and WORLD_SIZE, "
        "or a SLURM array's task, of 0 to n-1.",
        show_default=False,
    ),
]


class IndexMergeGroup(TyperGroup):
    """Group in which `index merge` is a command beside `index`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:2] == ["index", "merge"]:
            args = ["index merge", *args[2:]]
        return super().resolve_command(ctx, args)


def index(
    words: IndexWords = None,
    recipe: RecipeOption = None,
    root: Root = ".",
    output: IndexFolder = None,
    shard: ShardWord = None,
    jobs: Jobs = None,
    deadline: Deadline = 30.0,
    unknown_keys: UnknownKeys = "refuse",
    debug: Debug = False,
) -> None:
    """Read every row and probe every media file once, headers only.

    Writes media.parquet and samples.parquet. A call that was killed resumes where it was; a later one probes only files
    that are new or have changed. With a recipe, all its sources are indexed and tokens of text are counted. With --shard,
    one of n processes does its share; `lightning-apollo data index merge` makes the index of all shares.
    """
    with errors_in_one_line(debug):
        require_video()
        given = _Given(recipe, words or [], root, output, unknown_keys)
        given.require()
        if shard is None:
            from lightning_apollo.cli.indexing import index_line

            sources, folder, text = given.opened()
            line = index_line(build_under_bar(sources, folder, jobs, deadline, text))
        else:
            line = _index_shard(shard, given, jobs, deadline)
        Console().print(line, highlight=False, soft_wrap=True, markup=False)


def index_merge(
    words: IndexWords = None,
    recipe: RecipeOption = None,
    root: Root = ".",
    output: IndexFolder = None,
    unknown_keys: UnknownKeys = "refuse",
    debug: Debug = False,
) -> None:
    """Make one index of the shares that `data index --shard i/n` has left in its folder.

    The result is byte for byte that of one `data index`. Nothing is probed. Ends with code 2 where a shard is missing,
    unfinished or made from other manifests, settings or media than there are now, and says which.
    """
    with errors_in_one_line(debug):
        given = _Given(recipe, words or [], root, output, unknown_keys)
        given.require()
        from lightning_apollo.cli.indexing import merged_line
        from lightning_apollo.data.index.merge import merge_shards
        from lightning_apollo.progress import preparation_progress

        sources, folder, text = given.opened()
        with preparation_progress() as report:
            made = merge_shards(sources, folder, "" if text is None else text.identity, report)
        Console().print(merged_line(made), highlight=False, soft_wrap=True, markup=False)


def build_under_bar(
    sources: Sequence[Source],
    folder: Path,
    jobs: int | None,
    deadline: float,
    text: TextCounter | None = None,
    check: Probe | None = None,
) -> Index:
    """The index, made under a progress bar."""
    from lightning_apollo.data.index.build import build_index
    from lightning_apollo.data.media.video import probe
    from lightning_apollo.progress import preparation_progress

    with preparation_progress() as report:
        return build_index(sources, folder, _num_jobs(jobs), deadline, text, check or probe, report)


@dataclass(frozen=True)
class _Given:
    """Words and options that say what is indexed, and where."""

    recipe: str | None
    words: list[str]
    root: str
    output: Path | None
    unknown_keys: str

    def require(self) -> None:
        """UserError where the recipe or a manifest is not there."""
        if self.recipe is None:
            require_manifests(self.words, self.root)
        else:
            require_data(self.recipe, self.words)
            require_recipe(self.recipe, self.words)

    def opened(self) -> tuple[list[Source], Path, TextCounter | None]:
        """Sources, folder of the index, and with a recipe its counter of text."""
        if self.recipe is None:
            from lightning_apollo.cli.indexing import Plain

            sources = Plain(self.words, self.root, self.unknown_keys).sources()
            return sources, self.output or Path("runs/index"), None
        from lightning_apollo.cli.data_tables import open_recipe

        opened = open_recipe(self.recipe, self.words)
        return opened.sources(), self.output or Path(opened.recipe.output) / "index", opened.text()

    def options(self) -> list[str]:
        """The same words and options again."""
        values = {"--recipe": self.recipe, "--output": self.output}
        defaults = {"--root": (self.root, "."), "--unknown-keys": (self.unknown_keys, "refuse")}
        values |= {name: value for name, (value, default) in defaults.items() if value != default}
        named = [word for name, value in values.items() if value is not None for word in (name, str(value))]
        return [*named, *self.words]


def _index_shard(word: str, given: _Given, jobs: int | None, deadline: float) -> str:
    """Do one share under a progress bar and give its last line."""
    import os

    from lightning_apollo.cli.indexing import shard_line
    from lightning_apollo.data.index.shards import Shard

    shard = Shard.parse(word, os.environ)  # before the heavy imports, and what takes time to open
    from lightning_apollo.data.index.shard_work import index_shard
    from lightning_apollo.progress import preparation_progress

    sources, folder, text = given.opened()
    with preparation_progress() as report:
        made = index_shard(sources, folder, shard, _num_jobs(jobs), deadline, text, progress=report)
    return shard_line(folder, shard, made, given.options())


def _num_jobs(jobs: int | None) -> int:
    """Processes that probe."""
    import os

    return len(os.sched_getaffinity(0)) if jobs is None else jobs
