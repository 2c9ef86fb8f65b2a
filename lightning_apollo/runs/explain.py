"""Explain a recipe stage by stage, with the model on the meta device and rows counted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_apollo.data.annotations.manifest import MissingManifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.plan.mixture import passes_for_shares
from lightning_apollo.data.plan.order import epoch_size
from lightning_apollo.data.source import open_source
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.lora import AdapterSizes, adapter_sizes
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.stages.config import StageConfig
from lightning_apollo.training.config import TrainerConfig
from lightning_apollo.training.schedule import check_rates

BYTES_PER_VALUE = {"32-true": 4, "bf16-mixed": 4, "bf16-true": 2, "64-true": 8}  # mixed keeps float32 parameters
NF4_BYTES = 0.5 + (1 + 4 / 256) / 64  # a weight; its block of 64 has a scale of 8 bit, and 256 of those have one of 32
NUM_ADAMW_STATES = 2  # running means of the gradient and of its square
MEMORY_FORMULA = (
    "bytes a value × (parameters + 1 gradient and 2 AdamW means of what is trained), a rank, over the ranks with fsdp; "
    "under bf16-true what is trained has its gradient and means in float32, beside its bfloat16 gradient and a float32 "
    "master weight; "
    "adapters stand for the component that they train; activations come on top"
)
PRECISION_OF_MASTERS = (
    "frozen parts in bfloat16; what trains is rounded from float32 master weights, which the next stage starts from"
)


@dataclass(frozen=True)
class StageMemory:
    """Bytes on one rank that a stage's state takes whatever the batch."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def explain(recipe: Recipe) -> RenderableType:
    """Return a heading and one table per stage. Missing manifests are named, not an error; RecipeError for too few positions."""
    recipe.require_positions()
    parameters = count_parameters(recipe)
    rows = {name: count_manifest_rows(source) for name, source in recipe.data.sources.items()}
    total = Text.assemble(
        (recipe.name, "bold"), f": {sum(parameters.values()):,} parameters, written to {recipe.output}"
    )
    return Group(total, *(_stage_table(recipe, name, parameters, rows) for name in recipe.stages), _footer(recipe))


def count_parameters(recipe: Recipe) -> dict[str, int]:
    """Return the parameters of each component; tied ones count once. Takes no memory."""
    with torch.device("meta"):
        model = build_model(recipe.model, ReducerConfig())
    return {name: sum(p.numel() for p in part.parameters()) for name, part in model.components().items()}


def count_manifest_rows(source: SourceConfig) -> int | None:
    """Return the rows in a source's manifests, or None where one of them does not exist yet."""
    try:
        return len(open_source("", source))
    except MissingManifest:
        return None


def count_steps(
    stage: StageConfig, rows: Mapping[str, int | None], modalities: Mapping[str, str | None] | None = None
) -> int | None:
    """Return the optimizer steps of a stage, or None where its data is not there, or only planning can count them."""
    if stage.max_steps > 0:
        return stage.max_steps
    sizes = {source: num_rows for source, num_rows in rows.items() if num_rows is not None}
    if stage.packing is not None or any(source not in sizes for source in stage.mixture):
        return None
    mixture = passes_for_shares(stage.mixture, sizes, modalities or {}, stage.shares)
    num_samples = epoch_size({source: sizes[source] for source in mixture}, mixture)
    return (
        max(min(num_samples, 1), num_samples // stage.global_batch_size) * stage.epochs
    )  # the rest of an epoch is dropped


def count_adapters(recipe: Recipe, stage: StageConfig) -> dict[str, AdapterSizes]:
    """Return the sizes of the adapters of each component that has them. Takes no memory."""
    with torch.device("meta"):
        return adapter_sizes(build_model(recipe.model, ReducerConfig()).components(), stage.lora)


def stage_memory(
    stage: StageConfig,
    trainer: TrainerConfig,
    parameters: Mapping[str, int],
    adapters: Mapping[str, AdapterSizes] | None = None,
) -> StageMemory:
    """Return the bytes on one rank: see MEMORY_FORMULA. `adapters` are those of `count_adapters`."""
    adapters = adapters or {}
    num_holders = count_ranks(trainer) if trainer.strategy == "fsdp" else 1  # ranks that share each value
    size = BYTES_PER_VALUE[trainer.precision] / num_holders
    stepped = max(size, 4 / num_holders)  # of what the optimizer steps: adapters, and masters of bfloat16 weights
    trained = sum(parameters[name] for name in stage.trains if name not in adapters)
    of_adapters = sum(sizes.num_parameters for sizes in adapters.values())
    packed = sum(adapters[name].num_linear for name, config in stage.lora.items() if config.quantize == "nf4")
    masters = trained * stepped if stepped > size else 0.0
    return StageMemory(
        weights=size * (sum(parameters.values()) - packed) + packed * NF4_BYTES + of_adapters * stepped,
        gradients=(trained + of_adapters) * stepped + (trained * size if masters else 0.0),
        optimizer=(trained + of_adapters) * stepped * NUM_ADAMW_STATES + masters,
    )


def count_ranks(trainer: TrainerConfig) -> int:
    """Return the processes that train together; `auto` counts the GPUs of this machine."""
    if trainer.devices != "auto":
        return trainer.num_nodes * int(trainer.devices)
    num_gpus = 0 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    return trainer.num_nodes * max(1, num_gpus)


def _stage_table(
    recipe: Recipe, name: str, parameters: Mapping[str, int], rows: Mapping[str, int | None]
) -> RenderableType:
    stage = recipe.stages[name]
    adapters = count_adapters(recipe, stage) if stage.lora else {}
    table = Table(title=f"\n{name} ({stage.kind})", title_justify="left", title_style="bold", min_width=72)
    for column in ("component", "parameters", "", "peak rate"):
        table.add_column(column, justify="right" if column in ("parameters", "peak rate") else "left")
    for component, number in parameters.items():
        rate = stage.trains.get(component)
        trained = ("frozen", "") if rate is None else ("[green]trained[/green]", f"{rate:g}")
        if component not in adapters:
            table.add_row(component, f"{number:,}", *trained)
            continue
        lora = stage.lora[component]
        table.add_row(
            component, f"{number:,}", "frozen" if lora.quantize == "none" else f"frozen, in {lora.quantize}", ""
        )
        table.add_row(f"  adapters, rank {lora.rank}", f"{adapters[component].num_parameters:,}", *trained)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 1))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    memory = stage_memory(stage, recipe.trainer, parameters, adapters)
    for label, value in _facts(recipe, stage, memory, rows).items():
        facts.add_row(label, Text(value))
    return Group(table, facts)


def _facts(recipe: Recipe, stage: StageConfig, memory: StageMemory, rows: Mapping[str, int | None]) -> dict[str, str]:
    """Lines below a stage's table: label to value."""
    optimizer = stage.optimizer
    clip = (
        f"gradients clipped at norm {optimizer.gradient_clip:g}" if optimizer.gradient_clip else "no gradient clipping"
    )
    return {
        "data": "\n".join(_source_line(recipe, stage, source, rows[source]) for source in stage.mixture),
        **({"shares": _shares(stage.shares)} if stage.shares else {}),
        "visual tokens": _visual_tokens(recipe, stage),
        "steps": _steps(recipe, stage, rows),
        "batch": _batch(stage, recipe.trainer),
        "optimizer": f"AdamW, betas {optimizer.betas[0]:g} {optimizer.betas[1]:g}, "
        f"weight decay {optimizer.weight_decay:g}, cosine after {optimizer.warmup_ratio:.0%} warm-up, {clip}",
        **({"precision": PRECISION_OF_MASTERS} if recipe.trainer.precision == "bf16-true" else {}),
        "starts from": stage.init if stage.init != "previous" else _previous(recipe, stage),
        "memory a rank": f"{_gib(memory.total)}: weights {_gib(memory.weights)}, gradients {_gib(memory.gradients)}, "
        f"optimizer {_gib(memory.optimizer)}" + (", activations recomputed" if stage.activation_checkpointing else ""),
    }


def _source_line(recipe: Recipe, stage: StageConfig, source: str, num_rows: int | None) -> str:
    weight, unit = stage.mixture[source], "passes" if stage.packing is None else stage.packing.weights
    share = weight / sum(stage.mixture.values())
    times = f"{source} × {weight:g}" if unit == "passes" else f"{source}: {share:.1%} of the {unit}"
    if num_rows is not None:
        return f"{times}, {num_rows:,} rows"
    if recipe.data.shapes is not None:
        return f"{times}, rendered when the run starts"
    missing = [path for path in recipe.data.sources[source].manifests if not Path(path).is_file()]
    return f"{times}, missing: {', '.join(missing)}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{modality.replace('_', '-')} {share:.1%}" for modality, share in shares.items())


def _visual_tokens(recipe: Recipe, stage: StageConfig) -> str:
    clip = recipe.model.clip
    if clip is not None:
        limit = stage.max_clips or recipe.data.sampling.max_clips
        return f"{clip.num_tokens} for a clip of {clip.num_frames} frames or an image; at most {limit} clips a video"
    sizes = (stage.image_merge_size, stage.video_merge_size)
    return "merge {0}×{0} in images, {1}×{1} in videos; ".format(*sizes) + _reduction(stage.reducer)


def _reduction(reducer: ReducerConfig) -> str:
    if reducer.kind == "none":
        return "all of them reach the LLM"
    if reducer.kind == "merge_similar":
        return f"runs at one place with a cosine of {reducer.min_cosine:g} or more to their first become their mean"
    if reducer.token_budget is not None:
        return f"{reducer.kind} keeps the {reducer.token_budget:,} of each video that change most"
    return (
        f"{reducer.kind} drops those that change by {reducer.threshold_grey_levels:g} grey levels or less "
        f"against the {reducer.reference.replace('_', ' ')} frame"
    )


def _steps(recipe: Recipe, stage: StageConfig, rows: Mapping[str, int | None]) -> str:
    steps = count_steps(stage, rows, {name: source.modality for name, source in recipe.data.sources.items()})
    if stage.packing is not None:
        length = (
            f"{steps:,}" if steps is not None else f"{_plural(stage.epochs, 'epoch')}; counted when they are planned,"
        )
        return f"{length} of {_plural(stage.packing.micro_batches, 'packed micro-batch')}"
    if steps is None:
        return f"{_plural(stage.epochs, 'epoch')}; countable once the manifests are there"
    try:
        check_rates(stage.optimizer, steps)
    except ValueError as error:
        return f"fit will refuse this: {error}"
    return f"{steps:,} of {stage.global_batch_size} samples"


def _batch(stage: StageConfig, trainer: TrainerConfig) -> str:
    ranks = count_ranks(trainer)
    try:
        accumulate = stage.accumulate(ranks)
    except ValueError as error:
        return f"fit will refuse this: {error}"
    if stage.packing is not None:
        limits = f"at most {stage.packing.max_llm_tokens:,} LLM tokens and {stage.packing.max_patches:,} patches each"
        return f"{stage.packing.micro_batches} = {accumulate} accumulated × {_plural(ranks, 'rank')}, {limits}"
    sizes = f"{stage.micro_batch_size} packed × {accumulate} accumulated × {_plural(ranks, 'rank')}"
    return f"{stage.global_batch_size} = {sizes}"


def _previous(recipe: Recipe, stage: StageConfig) -> str:
    stages = list(recipe.stages.values())
    position = next(index for index, other in enumerate(stages) if other is stage)
    if position:
        return f"the weights of {list(recipe.stages)[position - 1]}"
    return (
        ", ".join(f"{part} {weights or 'random'}" for part, weights in recipe.model.weights.items())
        + ", connector random"
    )


def _footer(recipe: Recipe) -> RenderableType:
    data, sampling = recipe.data, recipe.data.sampling
    frames = {
        "fps": f"{sampling.fps:g} a second, at most {sampling.max_frames}",
        "uniform": f"evenly spread, {sampling.max_frames}",
        "clips": f"clips of {sampling.clip_frames} at {sampling.fps:g} a second, {sampling.placement} placement",
    }
    return Text(
        f"\nFrames of a video: {frames[sampling.kind]}. "
        f"A sample: at most {data.budget.token_budget:,} visual tokens, {data.budget.max_length:,} tokens in all.\n"
        f"Memory: {MEMORY_FORMULA}.",
        style="dim",
    )


def _plural(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 1024**3:.1f} GiB" if num_bytes >= 0.1 * 1024**3 else f"{math.ceil(num_bytes / 1024**2)} MiB"
