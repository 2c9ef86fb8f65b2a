"""The data of a stage, built from its recipe."""

from __future__ import annotations

from dataclasses import replace

from lightning_apollo.data.datamodule import Batching, VideoDataModule
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.plan.epoch import PlanConfig
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.encode import ChatTokenizer
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.progress import preparation_progress, print_line
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.stage_folder import (
    stage_folder,
)
from lightning_apollo.stages import StageConfig


def build_data(recipe: Recipe, name: str) -> VideoDataModule:
    """The data of one stage: its mixture, and the preprocessing that asking its model must repeat."""
    stage = recipe.stages[name]
    batching = Batching(
        mixture=stage.mixture,
        micro_batch_size=stage.micro_batch_size,
        global_batch_size=stage.global_batch_size,
        epochs=stage.epochs,
        max_steps=stage.max_steps,
        packing=None if stage.packing is None else plan_config(stage, recipe),
        shares=stage.shares,
        stage=name,
    )
    folder, text = stage_folder(recipe, name), text_counter(recipe)
    progress = preparation_progress if recipe.trainer.progress_bar else None
    settings = preprocessing_of(recipe, name, text.tokenizer)
    return VideoDataModule(recipe.data, batching, settings, text, folder, recipe.seed, progress, print_line)


def preprocessing_of(recipe: Recipe, name: str, tokenizer: ChatTokenizer) -> Preprocessing:
    """The preprocessing of one stage. Its `max_clips` comes before that of `data.sampling`."""
    data, stage = recipe.data, recipe.stages[name]
    sampling = data.sampling
    if stage.max_clips is not None:
        sampling = replace(sampling, max_clips=stage.max_clips)
    return Preprocessing(
        tokenizer=tokenizer,
        patch_size=recipe.model.patch_size,
        image_merge_size=stage.image_merge_size,
        video_merge_size=stage.video_merge_size,
        sampling=sampling,
        budget=data.budget,
        system_prompt=data.system_prompt,
        clip=recipe.model.clip,
        clip_text=data.clip_text,
        picture=data.picture,
        stream_max_frames=data.stream_max_frames,
        streams=data.streams,
    )


def text_counter(recipe: Recipe) -> TextCounter:
    """The recipe's tokenizer, and how the tokens of text are counted with it."""
    name = recipe.model.llm.tokenizer
    clip_text = None if recipe.model.clip is None else recipe.data.clip_text
    return TextCounter(load_tokenizer_of(recipe.model.llm), name, recipe.data.system_prompt, clip_text)


def plan_config(stage: StageConfig, recipe: Recipe) -> PlanConfig:
    """Plan settings of a stage that packs, but for the weights, which depend on the sizes of the sources."""
    assert stage.packing is not None  # the caller asks only then
    return PlanConfig(
        max_llm_tokens=stage.packing.max_llm_tokens,
        max_patches=stage.packing.max_patches,
        unit=stage.packing.weights,
        seed=recipe.seed,
        step_size=stage.packing.micro_batches,
        cost=recipe.data.cost,
    )
