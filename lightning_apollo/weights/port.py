"""Configuration, tokenizer and processors with which plain transformers runs our VideoLLaMA 3 as `video_llama_3`.

What the port cannot do as we do is an error where it would change every answer, and else a line of `processor_differences`.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    VideoLlama3Config,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.template import IM_END
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.models.config import ModelConfig, ReducerConfig
from lightning_apollo.models.llm import config_of_recipe
from lightning_apollo.structures import Modality, WeightsError

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"  # where we have <image> for both
GREY, CONTRAST = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]  # mean and deviation of pixels, as fractions of white
_BICUBIC = 3  # Pillow's number
_FRAMES = {  # by kind of sampling
    "fps": "Frames: ours are those that play every 1/fps seconds, and where that makes more than `max_frames`, as many of them "
    "from the first to the last; the port takes n frame numbers N/n apart. Both are the same up to `max_frames` for clips of "
    "whole steps whose frame rate is constant and a multiple of fps.",
    "uniform": "Frames: ours are in the middle of `max_frames` equal parts, the port's at their beginnings; it refuses clips of "
    "fewer frames.",
}
_LAST_FRAMES = (
    "Phase: ours show the last frame of every step (data.sampling.phase end), as the released model was trained; the port "
    "shows the first. The fixture compares what the port shows."
)
_REDUCERS = (ReducerConfig(kind="none"), ReducerConfig(kind="diff_fp"))

# Our template (data/prompt/template.py). The processor puts `Time 0.0s:` and as many tokens as there are in the place of
# VIDEO_TOKEN.
_TEMPLATE = """\
{%- if SYSTEM and messages[0].role != 'system' -%}
{{- '<|im_start|>system\\n' + SYSTEM + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|image_pad|>\\n' -}}
{%- elif part.type == 'video' -%}
{{- '<|video_pad|>\\n' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def chat_template(system_prompt: str) -> str:
    """The jinja template of our prompts; `system_prompt` opens conversations that bring no system turn."""
    return _TEMPLATE.replace("SYSTEM", repr(system_prompt))


def write_port_files(
    model: ModelConfig, reducer: ReducerConfig, preparer: Preparer, dtype: torch.dtype, folder: Path
) -> dict[Modality, int]:
    """Write everything but the weights: configurations of model and generation, tokenizer, processors, chat template.

    Returns the ids that stand for the visual tokens of images and of videos there.
    """
    check_portable(model, reducer, preparer)
    tokenizer = port_tokenizer(preparer.settings.tokenizer, model.llm.vocab_size)
    config = port_config(model, tokenizer)
    config.dtype = dtype
    config.architectures = ["VideoLlama3ForConditionalGeneration"]
    config.save_pretrained(folder)
    end = token_id(tokenizer, IM_END)
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=padding).save_pretrained(folder)
    port_processor(preparer.settings, reducer, tokenizer).save_pretrained(folder)
    return {"image": config.image_token_id, "video": config.video_token_id}


def check_portable(model: ModelConfig, reducer: ReducerConfig, preparer: Preparer) -> None:
    """Raise WeightsError for a model that the port would run otherwise than we do."""
    if model.vision is None or model.connector.kind != "mlp":
        raise WeightsError("transformers has no class for an encoder of clips: it is exported for our own loader")
    if reducer not in _REDUCERS:
        raise WeightsError(
            f"transformers' VideoLLaMA 3 cannot reduce as the stage does ({reducer}): "
            "it takes reducer.kind none, or diff_fp with its defaults"
        )
    if preparer.visuals != "full":
        raise WeightsError(f"a model trained with data.visuals={preparer.visuals} is a baseline and not exported")


def processor_differences(sampling: SamplingConfig) -> list[str]:
    """Cases in which the port's processors may give other pixels or ids than our own for the same files; each a sentence."""
    return [
        _FRAMES[sampling.kind],
        *([_LAST_FRAMES] if sampling.kind == "fps" and sampling.phase == "end" else []),
        "Budget: ours is shared by all images and frames of a conversation; the port gives it to every image and video anew.",
        "Extreme sizes: the port refuses pictures more than 200 times as wide as high, and lets other narrow ones pass the budget.",
        "Text: the port takes a special token that a user writes for what it stands for; we take it for text.",
    ]


def as_port(preparer: Preparer) -> Preparer:
    """The preparer with the first frame of every step, which the port's processors take."""
    settings = preparer.settings
    return replace(preparer, settings=replace(settings, sampling=replace(settings.sampling, phase="start")))


def port_tokenizer(tokenizer: object, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer with the port's two placeholders; those of Qwen2.5 have them, others get them after their last token.

    The rows that stand at their ids are never looked at: visual tokens take their places.
    """
    assert isinstance(tokenizer, PreTrainedTokenizerBase)  # a recipe's tokenizer is transformers'
    known = tokenizer.get_vocab()
    missing = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN) if token not in known]
    if len(tokenizer) + len(missing) > vocab_size:
        raise WeightsError(
            f"no room for {' and '.join(missing)}: the tokenizer has {len(tokenizer)} tokens and model.llm.vocab_size is "
            f"{vocab_size}; train with {len(tokenizer) + len(missing)} or more"
        )
    tokenizer = copy.deepcopy(tokenizer)  # the caller's stays without them
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)  # a list comes of a list alone
    return number


def port_config(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> VideoLlama3Config:
    """The model's sizes in the port's words."""
    vision = model.vision
    assert vision is not None  # check_portable
    return VideoLlama3Config(
        text_config=config_of_recipe(model.llm).to_dict(),
        vision_config={
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
        },
        image_token_id=token_id(tokenizer, IMAGE_TOKEN),
        video_token_id=token_id(tokenizer, VIDEO_TOKEN),
        tie_word_embeddings=model.llm.tie_word_embeddings,
    )


def port_processor(
    settings: Preprocessing, reducer: ReducerConfig, tokenizer: PreTrainedTokenizerBase
) -> VideoLlama3Processor:
    """Processors of images and videos that sample and resize as ours do, as far as `processor_differences` allows."""
    sampling = settings.sampling
    frames: dict[str, Any] = {"fps": sampling.fps} if sampling.kind == "fps" else {"num_frames": sampling.max_frames}
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(**_pixels(settings, settings.image_merge_size)),
        tokenizer=tokenizer,
        video_processor=VideoLlama3VideoProcessor(
            **_pixels(settings, settings.video_merge_size),
            **frames,
            do_sample_frames=True,
            min_frames=1,
            max_frames=sampling.max_frames,
            use_token_compression=reducer.kind == "diff_fp",
        ),
        chat_template=chat_template(settings.system_prompt),
    )


def _pixels(settings: Preprocessing, merge_size: int) -> dict[str, Any]:
    token_pixels = (settings.patch_size * merge_size) ** 2
    budget = settings.budget
    return {
        "size": {
            "shortest_edge": budget.min_tokens * token_pixels,  # both are areas, whatever their names
            "longest_edge": budget.token_budget * token_pixels,
        },
        "image_mean": GREY,
        "image_std": CONTRAST,
        "resample": _BICUBIC,
        "patch_size": settings.patch_size,
        "temporal_patch_size": 1,
        "merge_size": merge_size,
    }
