"""Manifests without a recipe, and last lines of `data index`. Nothing here loads a model, so that a merge stays small."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_apollo.data.annotations.keys import IGNORE, REFUSE
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.errors import RecipeError

if TYPE_CHECKING:
    from lightning_apollo.data.index.shard_work import ShardSummary
    from lightning_apollo.data.index.shards import Shard


@dataclass(frozen=True)
class Plain:
    """Manifests without a recipe: each is a source of its own, called by its name without the suffix."""

    manifests: Sequence[str]
    root: str
    unknown_keys: str = REFUSE

    def sources(self) -> list[Source]:
        if self.unknown_keys not in (REFUSE, IGNORE):
            raise RecipeError(f"--unknown-keys is refuse or ignore, not {self.unknown_keys!r}")
        if not self.manifests:
            raise RecipeError("nothing to index: name manifests, or a recipe with --recipe")
        stems = [Path(path).stem for path in self.manifests]
        names = [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, self.manifests, strict=True)]
        configs = {name: SourceConfig([path], self.root) for name, path in zip(names, self.manifests, strict=True)}
        return open_sources(configs, (), self.unknown_keys)


def index_line(index: Index) -> str:
    """Index in one line: rows, files and fingerprint."""
    num_broken = index.media.num_rows - index.media["error"].null_count
    return (
        f"{index.folder}: {len(index):,} rows ({int(index.is_broken().sum()):,} broken), {index.media.num_rows:,} files "
        f"({num_broken:,} broken), fingerprint {index.fingerprint[:12]}"
    )


def merged_line(index: Index) -> str:
    """The same of an index that was merged, and what to do with it."""
    return f"{index_line(index)}; next: lightning-apollo data show {shlex.quote(str(index.folder))}"


def shard_line(folder: Path, shard: Shard, made: ShardSummary, options: Sequence[str]) -> str:
    """Shard in one line: rows, files, and the command that follows, whose words are `options`."""
    merge = shlex.join(["lightning-apollo", "data", "index", "merge", *options])
    return (
        f"{folder}: shard {shard}: {made.num_rows:,} rows, {made.num_files:,} files ({made.num_broken:,} broken); "
        f"when all {shard.count} are done: {merge}"
    )
