"""The same training batch and weights for both sides of bench_step: ours packed, transformers' `video_llama_3` port padded.

T text tokens · U of them after reduction · F frames · H, W pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2.functional import resize
from transformers import (
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3VideoProcessor,
)

from lightning_apollo.data.sampling.budget import BudgetConfig, target_sizes
from lightning_apollo.models.checkpoint.load import from_port_names
from lightning_apollo.models.config import LLMConfig, ModelConfig, ReducerConfig, VisionEncoderConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import IGNORE_INDEX, Frames, Sample, VisualItem

PATCH_SIZE = 14  # pixels
IMAGE_MERGE, VIDEO_MERGE = 1, 2
THRESHOLD = 0.05  # grey levels: the port's 0.1 in its own unit
PORT_IMAGE, PORT_VIDEO = 1, 2  # token ids of the placeholders; words begin behind them
FIRST_WORD = 3


@dataclass(frozen=True)
class Case:
    """One sample: its one image (frames = 1) or video, and the length of its text."""

    frames: int
    height: int  # pixels
    width: int
    question: int  # tokens
    answer: int  # tokens, labelled


CASES = (
    Case(16, 168, 224, question=24, answer=12),
    Case(6, 112, 140, question=60, answer=45),
    Case(1, 280, 280, question=16, answer=60),
    Case(12, 112, 196, question=30, answer=5),
    Case(1, 140, 140, question=12, answer=20),
    Case(8, 140, 140, question=45, answer=33),
    Case(1, 196, 280, question=20, answer=8),
    Case(10, 168, 168, question=18, answer=26),
)
QUICK_CASES = (Case(3, 56, 84, 9, 5), Case(1, 56, 70, 5, 7), Case(2, 56, 56, 4, 3))


def model_config(vocabulary: int, quick: bool = False) -> ModelConfig:
    """About 6 M parameters at 4096 words, split between encoder and LLM about as in VideoLLaMA 3 2B (1 to 3.6)."""
    vision = (48, 1, 2, 96) if quick else (160, 4, 4, 640)
    llm = (64, 1, 2, 1, 96) if quick else (256, 5, 4, 2, 768)
    return ModelConfig(
        vision=VisionEncoderConfig(*vision, patch_size=PATCH_SIZE),
        llm=LLMConfig(*llm, vocab_size=vocabulary, tokenizer="none", tie_word_embeddings=True),
    )


def build_port(config: ModelConfig) -> VideoLlama3ForConditionalGeneration:
    """The port at these sizes with seeded random weights, in training mode."""
    vision, llm = config.vision, config.llm
    assert vision is not None
    text_config = {
        "model_type": "qwen2",
        "hidden_size": llm.hidden_size,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "intermediate_size": llm.intermediate_size,
        "vocab_size": llm.vocab_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": llm.rope_theta},
        "tie_word_embeddings": llm.tie_word_embeddings,
    }
    vision_config = {
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "intermediate_size": vision.intermediate_size,
        "patch_size": vision.patch_size,
    }
    port_config = VideoLlama3Config(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=PORT_IMAGE,
        video_token_id=PORT_VIDEO,
        tie_word_embeddings=llm.tie_word_embeddings,
    )
    torch.manual_seed(0)
    return VideoLlama3ForConditionalGeneration._from_config(port_config, attn_implementation="sdpa").train()


def build_ours(
    config: ModelConfig, port: VideoLlama3ForConditionalGeneration, threshold: float = THRESHOLD
) -> VideoLMM:
    """Our model with a copy of the port's weights, in training mode."""
    model = build_model(config, ReducerConfig(kind="diff_fp", threshold_grey_levels=threshold))
    model.load_state_dict(from_port_names(port.state_dict()))
    return model.train()


def make_samples(cases: tuple[Case, ...], vocabulary: int, visual_share: float = 1.0) -> list[Sample]:
    """The samples; `visual_share` scales every token budget: 0.5 shows each image and video with at most half its tokens."""
    return [_sample(case, vocabulary, seed, visual_share) for seed, case in enumerate(cases)]


def _sample(case: Case, vocabulary: int, seed: int, visual_share: float) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    visual = _visual(case, generator, visual_share)
    words = torch.randint(FIRST_WORD, vocabulary, (case.question + case.answer,), generator=generator)
    placeholder = PORT_IMAGE if visual.modality == "image" else PORT_VIDEO
    run = torch.full((visual.num_visual_tokens(PATCH_SIZE),), placeholder)
    input_ids = torch.cat([words[:4], run, words[4:]])  # (T,)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    labels[-case.answer :] = words[-case.answer :]
    return Sample(f"case:{seed}", "benchmark", input_ids, labels, input_ids == placeholder, (visual,), PATCH_SIZE)


def _visual(case: Case, generator: torch.Generator, visual_share: float) -> VisualItem:
    merge_size = IMAGE_MERGE if case.frames == 1 else VIDEO_MERGE
    pixels = _clip(case, generator)
    if visual_share < 1.0:
        tokens = case.frames * case.height * case.width // (PATCH_SIZE * merge_size) ** 2
        budget = BudgetConfig(token_budget=int(tokens * visual_share), min_tokens=1)
        (size,) = target_sizes([(case.frames, case.height, case.width)], [merge_size], PATCH_SIZE, budget)
        pixels = resize(pixels, list(size), antialias=True)
    frames = Frames(pixels, torch.arange(case.frames, dtype=torch.float64))
    return VisualItem(frames, "image" if case.frames == 1 else "video", merge_size)


def _clip(case: Case, generator: torch.Generator) -> Tensor:
    """(F, 3, H, W) uint8: a quarter of the width stands still, a quarter has camera noise of ±3 grey levels, half moves."""
    scene = torch.randint(16, 240, (3, case.height // 7, case.width // 7 + case.frames), generator=generator)
    scene = F.interpolate(scene[None].float(), scale_factor=7)[0].round().to(torch.int64)  # (3, H, W + 7·F)
    frames = torch.stack([scene[:, :, 7 * k : 7 * k + case.width] for k in range(case.frames)])
    quarter = case.width // 4
    frames[:, :, :, : 2 * quarter] = frames[:1, :, :, : 2 * quarter]
    noise = torch.randint(-3, 4, (case.frames, 3, case.height, quarter), generator=generator)
    frames[:, :, :, quarter : 2 * quarter] += noise
    return frames.clamp_(0, 255).to(torch.uint8)


def port_inputs(samples: list[Sample]) -> dict[str, Tensor]:
    """The batch as a user of the port trains on it: its processors' pixels and keep mask, text padded on the right."""
    visuals = [sample.visuals[0] for sample in samples]
    images = [item.frames.pixels[0] for item in visuals if item.modality == "image"]
    clips = [item.frames.pixels for item in visuals if item.modality == "video"]
    image_processor = VideoLlama3ImageProcessor(patch_size=PATCH_SIZE, merge_size=IMAGE_MERGE, do_resize=False)
    video_processor = VideoLlama3VideoProcessor(
        patch_size=PATCH_SIZE, merge_size=VIDEO_MERGE, do_resize=False, use_token_compression=True
    )
    inputs = dict(image_processor(images=images, return_tensors="pt"))
    inputs |= dict(video_processor(videos=clips, return_tensors="pt", return_metadata=False))
    keep = torch.ones(sum(sample.input_ids.numel() for sample in samples), dtype=torch.bool)
    flat_ids = torch.cat([sample.input_ids for sample in samples])
    keep[flat_ids == PORT_VIDEO] = inputs["video_compression_mask"]
    kept = keep.split([sample.input_ids.numel() for sample in samples])
    ids = [sample.input_ids[mask] for sample, mask in zip(samples, kept, strict=True)]  # (U,) each
    labels = [sample.labels[mask] for sample, mask in zip(samples, kept, strict=True)]
    inputs["input_ids"] = pad_sequence(ids, batch_first=True, padding_value=0)
    inputs["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
    inputs["attention_mask"] = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    return inputs
