"""Terminal tables of `lightning-apollo data`: contents of an index and costs of its samples under a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_apollo.data.index.ignored_keys import ignored_keys_of_index
from lightning_apollo.data.index.sample_costs import sample_costs
from lightning_apollo.data.index.scan import SourceReport, SourceSummary, summarise
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter, TokenCounts, tokens
from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.draw import passes_of_sources
from lightning_apollo.data.plan.epoch import Plan, make_plan
from lightning_apollo.data.plan.mixture import passes_for_shares
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.errors import suggestion
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs.build import plan_config, preprocessing_of, text_counter

_NUM_FAULTS = 3  # of each source that are shown
_BAR_WIDTH = 50


@dataclass(frozen=True)
class RecipeData:
    """The data of a recipe."""

    recipe: Recipe

    def sources(self) -> list[Source]:
        """All its sources; a built-in set is rendered where it is missing."""
        data = self.recipe.data
        if data.shapes is not None:
            shapes.render_shapes(data.shapes, Path(data.root))
        return open_sources(data.sources, data.outside_root, data.unknown_keys, data.storage.protocols)

    def text(self) -> TextCounter:
        """Counter of its text tokens."""
        return text_counter(self.recipe)

    def costs(self, index: Index, stage: str) -> TokenCounts:
        """Costs of every sample of the index in one of the stages."""
        visuals, text = self.recipe.data.visuals, self.text()
        if visuals != "full":
            raise RecipeError(f"data.visuals={visuals}: costs are those of whole videos: set data.visuals=full")
        return tokens(index, preprocessing_of(self.recipe, stage, text.tokenizer), text)


def open_recipe(name: str, overrides: Sequence[str]) -> RecipeData:
    """The data of a recipe of that name or path, with `key=value` words applied."""
    return RecipeData(load_recipe(name, overrides))


def choose_stage(recipe: Recipe, name: str | None) -> str:
    """The stage of that name; the last one if there is no name."""
    names = list(recipe.stages)
    if name is not None and name not in names:
        raise RecipeError(f"{recipe.name} has no stage {name}{suggestion(name, names)}")
    return names[-1] if name is None else name


def scan_table(reports: Sequence[SourceReport], max_error_share: float) -> RenderableType:
    """A line for each source and one for each of its most frequent faults; red where a share is above the limit."""
    table = Table(
        "source", "rows", "broken", "share", "why", title=f"broken rows, at most {max_error_share:.2%} a source"
    )
    for number in range(1, 4):
        table.columns[number].justify = "right"
    for report in reports:
        style = "red" if report.share > max_error_share else "yellow" if report.num_broken else "green"
        table.add_row(
            *(report.source, f"{report.num_rows:,}", f"{report.num_broken:,}", Text(f"{report.share:.2%}", style)),
            "" if report.num_broken else "nothing",
        )
        for fault in report.faults[:_NUM_FAULTS]:
            table.add_row("", "", f"{fault.num_rows:,}", "", Text(str(fault.example), overflow="fold"))
        if len(report.faults) > _NUM_FAULTS:
            rest = report.faults[_NUM_FAULTS:]
            table.add_row("", "", f"{sum(fault.num_rows for fault in rest):,}", "", f"{len(rest)} other reasons")
    return table


def ignored_lines(index: Index) -> Iterator[str]:
    """A line for each key of each source that was passed over."""
    for one in ignored_keys_of_index(index):
        yield f"{one.source}: ignored {one.key!r:.60} in {one.num_rows:,} rows, for example {one.example}"


def show_text(index: Index) -> RenderableType:
    """Contents of the sources, and a histogram of how long their text is."""
    unit, column = ("tokens of text", "num_text_tokens") if index.text_identity else ("bytes of text", "text_bytes")
    lengths = index.sample_column(column)[~index.is_broken()]
    return Group(_holdings(summarise(index)), _histogram(lengths, f"samples by {unit}"))


def show_costs(index: Index, data: RecipeData, stage: str | None) -> RenderableType:
    """The same with what every sample costs in a stage of the recipe, its last one unless named."""
    stage = choose_stage(data.recipe, stage)
    counts = data.costs(index, stage)
    return Group(
        _holdings(summarise(index)),
        _cost_table(index, counts, f"tokens of a sample, {data.recipe.name}, {stage}"),
        _histogram(counts.llm_tokens[counts.is_usable], "samples by tokens of the language model"),
        *_epoch(index, counts, data.recipe, stage),
        _fine_print(index, counts),
    )


def _holdings(summaries: Sequence[SourceSummary]) -> Table:
    columns = ("samples", "broken", "images", "videos", "hours", "text", "tokens of text")
    table = Table("source", *columns, title="what the sources hold")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for one in summaries:
        counts = (one.num_samples, one.num_broken, one.num_images, one.num_videos)
        num_tokens = "–" if one.num_text_tokens is None else f"{one.num_text_tokens:,}"
        table.add_row(
            one.source, *(f"{n:,}" for n in counts), f"{one.video_hours:,.2f}", _as_bytes(one.text_bytes), num_tokens
        )
    return table


def _cost_table(index: Index, counts: TokenCounts, title: str) -> Table:
    table = Table("source", "tokens", "sum", "median", "p95", "max", "do not fit", title=title)
    for column in table.columns[2:]:
        column.justify = "right"
    sources, is_broken = index.sample_column("source"), index.is_broken()
    for place, source in enumerate(index.sources):
        mine = sources == place
        shown = mine & counts.is_usable
        num_unfit = int((mine & ~is_broken & ~counts.is_usable).sum())
        for what, values in (("visual", counts.visual_tokens[shown]), ("language model", counts.llm_tokens[shown])):
            numbers = (values.sum(), *np.quantile(values, (0.5, 0.95, 1.0))) if len(values) else (0, 0, 0, 0)
            is_first = what == "visual"
            table.add_row(
                source if is_first else "", what, *(f"{n:,.0f}" for n in numbers), f"{num_unfit:,}" if is_first else ""
            )
    return table


def _epoch(index: Index, counts: TokenCounts, recipe: Recipe, stage: str) -> Iterator[RenderableType]:
    """Composition of an epoch of the stage; where it packs, how full its micro-batches are and how equal."""
    config = recipe.stages[stage]
    costs, _ = sample_costs(index, counts)
    sizes = {name: len(costs.source_range(name)) for name in index.sources if name in config.mixture}
    modalities = {name: source.modality for name, source in recipe.data.sources.items()}
    mixture = passes_for_shares({name: config.mixture[name] for name in sizes}, sizes, modalities, config.shares)
    unit = "passes" if config.packing is None else config.packing.weights
    passes = passes_of_sources(costs, mixture, unit)
    table = Table("source", "passes", "samples", "tokens", "share of samples", "share of tokens", title="an epoch")
    for column in table.columns[1:]:
        column.justify = "right"
    samples = {name: number * sizes[name] for name, number in passes.items()}
    tokens = {name: number * _num_tokens(costs, name) for name, number in passes.items()}
    for name, number in passes.items():
        shares = (samples[name] / sum(samples.values()), tokens[name] / sum(tokens.values()))
        numbers = (f"{number:,.2f}", f"{samples[name]:,.0f}", f"{tokens[name]:,.0f}")
        table.add_row(name, *numbers, *(f"{share:.1%}" for share in shares))
    yield table
    if config.packing is not None:
        planned = replace(plan_config(config, recipe), weights=mixture)
        yield _packing_line(make_plan(costs, planned, epoch=0), costs)


def _packing_line(plan: Plan, costs: SampleCosts) -> Text:
    size = plan.config.step_size
    summary = plan.summary(costs, world_size=size)
    return Text(
        f"packed into {summary.num_micro_batches:,} micro-batches, {summary.num_steps:,} steps of {size:,}: "
        f"{summary.fill:.1%} of their LLM tokens used, {summary.patch_fill:.1%} of their patches; on {size:,} ranks a step "
        f"takes {summary.imbalance.mean:.3f} times what equal ranks would; {summary.dropped_samples:,} samples are left over"
    )


def _num_tokens(costs: SampleCosts, source: str) -> int:
    rows = costs.source_range(source)
    return int(costs.llm_tokens[rows.start : rows.stop].sum(dtype=np.int64))


def _histogram(values: np.ndarray, title: str) -> RenderableType:
    """Bars of half an octave each."""
    table = Table(title=title, box=None, show_header=False)
    if not len(values):
        return Text("no sample that can be read")
    first, last = int(2 * np.log2(max(1, values.min()))), int(2 * np.log2(max(1, values.max())))
    edges = np.unique(np.ceil(2 ** (np.arange(first, last + 2) / 2)).astype(np.int64))
    edges[0] = min(edges[0], values.min())
    edges[-1] = max(edges[-1], values.max() + 1)
    numbers, _ = np.histogram(values, edges)
    for begin, end, number in zip(edges[:-1], edges[1:], numbers, strict=True):
        bar = Bar(size=float(numbers.max()), begin=0, end=float(number), width=_BAR_WIDTH)
        table.add_row(Text(f"{begin:,} to {end - 1:,}", justify="right"), bar, f"{number:,}")
    return table


def _fine_print(index: Index, counts: TokenCounts) -> Text:
    usable = counts.is_usable
    num_bounds = int((usable & ~counts.is_exact).sum())
    if not num_bounds:
        return Text("before reduction; counted exactly, with every frame at its planned time")
    reason = "streams and conversations above max_length"
    if num_bounds == usable.sum():
        reason = "the index was made without this recipe's tokenizer: `lightning-apollo data index --recipe` counts"
    return Text(f"before reduction; upper bounds for {num_bounds:,} of {int(usable.sum()):,} samples ({reason})")


def _as_bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
