"""Disk space of a stage, checked before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lightning_apollo.errors import UserError
from lightning_apollo.files import remove_partials
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.explain import BYTES_PER_VALUE, count_adapters, count_parameters, stage_memory
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.checkpoint import CHECKPOINTS, remove_unfinished
from lightning_apollo.training.callbacks.room import free_bytes, in_words

_REST = 2**20  # headers of the files, buffers of the model, done.json


@dataclass(frozen=True)
class StageBytes:
    """Bytes of the files that a stage writes."""

    final: int  # weights, and the adapter file where there is one
    checkpoint: int  # each: weights and the optimizer's state


def stage_bytes(recipe: Recipe, name: str) -> StageBytes:
    """Return the sizes of a stage's files, from its recipe alone; nothing is allocated."""
    stage, parameters = recipe.stages[name], count_parameters(recipe)
    try:
        adapters = count_adapters(recipe, stage) if stage.lora else {}
    except ValueError as error:  # the model has no module of the name that lora gives
        raise RecipeError(f"stages.{name}: {error}") from error
    size = BYTES_PER_VALUE[recipe.trainer.precision]
    wide = max(size, 4)  # adapters, and what trains in bfloat16, are written in float32
    trained = sum(parameters[component] for component in stage.trains if component not in adapters)
    final = size * (sum(parameters.values()) - trained) + wide * trained
    if adapters:  # their file also has the components that train whole
        final += wide * (trained + sum(sizes.num_parameters for sizes in adapters.values()))
    on_one_rank = replace(recipe.trainer, strategy="auto")  # slices of all ranks come to as much
    memory = stage_memory(stage, on_one_rank, parameters, adapters)
    return StageBytes(int(final) + _REST, int(memory.weights + memory.optimizer) + _REST)


def require_room(recipe: Recipe, name: str, say: Callable[[str], None]) -> None:
    """Raise UserError where the final weights of a stage would find no room; say so where its checkpoints would not.

    What killed runs of the stage left half written is removed first. No other process may be writing into its folder.
    """
    folder, needs = stage_folder(recipe, name), stage_bytes(recipe, name)
    remove_partials(folder)
    remove_unfinished(folder / CHECKPOINTS)
    free = free_bytes(folder)
    if free < needs.final:
        raise UserError(
            f"{folder} has room for {in_words(free)}, and the weights of stage {name} take {in_words(needs.final)}: make "
            "room, or set output= to another disk"
        )
    there = len(list((folder / CHECKPOINTS).glob("step-*.ckpt")))
    num_new = max(1, recipe.trainer.checkpoint.keep + 1 - there)  # a new one is whole before the oldest goes
    if free < needs.final + num_new * needs.checkpoint:
        say(
            f"stage {name}: {folder} has room for {in_words(free)}; the weights take {in_words(needs.final)} and each of up "
            f"to {num_new} checkpoints about {in_words(needs.checkpoint)}: where one finds no room, the run continues without it"
        )
