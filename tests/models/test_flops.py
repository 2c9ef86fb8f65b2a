"""FLOPs counted from sizes against torch's counter, which watches every operator of the real model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.config import ConnectorConfig, LoraConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.flops import BatchSizes, Flops, count_flops
from lightning_apollo.models.lora import adapter_sizes, add_adapters
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import PackedBatch
from tests.models.clips import (
    CLIP_MODEL,
    CONNECTOR,
    FRAMES,
    IMAGE,
    VIDEO,
    VIDEOMAE,
    VJEPA2,
    clip_item,
    clip_pixels,
)
from tests.models.samples import MODEL, image, pack, sample, video

TRAINED = [
    ("vision", "connector"),
    ("vision", "connector", "llm"),
    ("connector",),
    ("connector", "llm"),
    ("llm",),
    ("vision",),
    ("vision", "llm"),
]
SDPA = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
SDPA_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def counter() -> FlopCounterMode:
    """Torch's counter, with its own formulas also for the attention of a CPU, which it would count as nothing."""

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    return FlopCounterMode(display=False, custom_mapping={SDPA: forward, SDPA_BACKWARD: backward})


def measured(model: VideoLMM, batch: PackedBatch) -> tuple[dict[str, float], float]:
    """The counter's forward FLOPs of every component, and its FLOPs of the backward pass."""
    components = {"vision": "vision_encoder", "connector": "connector", "llm": "llm.model", "head": "llm.lm_head"}
    with counter() as forward:
        logits = model(batch).logits
    counts = forward.get_flop_counts()
    name = type(model).__name__
    by_component = {c: float(sum(counts.get(f"{name}.{path}", {}).values())) for c, path in components.items()}
    assert sum(by_component.values()) == pytest.approx(forward.get_total_flops(), rel=1e-3)  # nothing else multiplies
    if not logits.requires_grad:
        return by_component, 0.0
    with counter() as backward:
        logits.sum().backward()
    return by_component, float(backward.get_total_flops())


def model_and_lengths(
    config: ModelConfig, reducer: ReducerConfig, trains: Collection[str], batch: PackedBatch, checkpointing: bool
) -> tuple[VideoLMM, list[int]]:
    model = build_model(config, reducer).train()
    for name, component in model.components().items():
        component.requires_grad_(name in trains)
    model.set_activation_checkpointing(checkpointing)
    with torch.no_grad():
        return model, model.splice(batch).lengths


def check(
    config: ModelConfig,
    batch: PackedBatch,
    trains: Collection[str],
    checkpointing: bool = False,
    reducer: ReducerConfig | None = None,
) -> Flops:
    model, lengths = model_and_lengths(config, reducer or ReducerConfig(), trains, batch, checkpointing)
    forward, backward = measured(model, batch)
    counted = count_flops(
        config, BatchSizes.of(batch).reduced(lengths), trains, activation_checkpointing=checkpointing, hardware=True
    )
    assert counted.forward.pop("llm") == pytest.approx(forward.pop("llm"), rel=0.01)  # the angles of RoPE are left out
    assert counted.forward == forward
    assert sum(counted.backward.values()) == backward
    return count_flops(config, BatchSizes.of(batch).reduced(lengths), trains, hardware=True)


def mixed_batch() -> PackedBatch:
    """A text, an image and a video of several sizes, whose second half does not move."""
    return pack(
        sample(num_text=9, seed=1),
        sample(image(56, 84, 1), num_text=20, seed=2),
        sample(video(3, 84, 56, 2, static=True), image(28, 28, 3), num_text=31, seed=3),
    )


def clip_batch() -> PackedBatch:
    def item(frames: int, seed: int, config: ModelConfig = CLIP_MODEL) -> Any:
        return clip_item(clip_pixels(frames, 12, 10, seed), config)

    return pack(
        sample(num_text=9, seed=1, patch_size=4),
        sample(item(1, 1), num_text=20, seed=2, patch_size=4),
        sample(item(2 * FRAMES, 2), item(FRAMES, 3), num_text=31, seed=3, patch_size=4),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trains", TRAINED, ids="+".join)
def test_frames(trains: tuple[str, ...], checkpointing: bool) -> None:
    check(MODEL, mixed_batch(), trains, checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trains", TRAINED, ids="+".join)
def test_clips(trains: tuple[str, ...], checkpointing: bool) -> None:
    check(CLIP_MODEL, clip_batch(), trains, checkpointing)


def test_nothing_trained_has_no_backward() -> None:
    assert check(MODEL, mixed_batch(), ()).backward == dict.fromkeys(("vision", "connector", "llm", "head"), 0.0)


@pytest.mark.parametrize("kind", ["diff_fp", "merge_similar"])
def test_dropped_tokens_cost_the_language_model_nothing(kind: str) -> None:
    whole = check(MODEL, mixed_batch(), ("connector", "llm"))
    reduced = check(MODEL, mixed_batch(), ("connector", "llm"), reducer=ReducerConfig(kind, min_cosine=-0.5))
    assert reduced.forward["vision"] == whole.forward["vision"]
    for component in ("connector", "llm"):
        assert reduced.forward[component] < whole.forward[component]


@pytest.mark.parametrize("trains", [("connector",), ("vision", "connector", "llm")], ids="+".join)
@pytest.mark.parametrize("config", [MODEL, CLIP_MODEL], ids=["frames", "clips"])
def test_text_alone(config: ModelConfig, trains: tuple[str, ...]) -> None:
    counted = check(config, pack(sample(num_text=30), sample(num_text=17, seed=1)), trains)
    assert counted.forward["connector"] == 0
    assert counted.backward["llm"] > 0  # a connector without tokens still leads autograd through a frozen LLM


CLIP_VARIANTS = {
    "deep perceiver": replace(CLIP_MODEL, connector=replace(CONNECTOR, depth=3)),
    "mlp_pool": replace(CLIP_MODEL, connector=ConnectorConfig("mlp_pool", num_tokens=6)),
    "conv_pool": replace(CLIP_MODEL, connector=ConnectorConfig("conv_pool", num_tokens=6)),
    "vjepa2": replace(CLIP_MODEL, fused=FusedEncoderConfig(IMAGE, VJEPA2, FRAMES)),
    "videomae": replace(CLIP_MODEL, fused=FusedEncoderConfig(None, VIDEOMAE, FRAMES)),
    "siglip alone": replace(CLIP_MODEL, fused=FusedEncoderConfig(IMAGE, None, FRAMES)),
    "internvideo2, tubelets": replace(
        CLIP_MODEL, fused=FusedEncoderConfig(IMAGE, replace(VIDEO, tubelet_size=2), FRAMES, encode_batch_size=2)
    ),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trains", [("connector",), ("vision", "connector"), ("vision",)], ids="+".join)
@pytest.mark.parametrize("variant", CLIP_VARIANTS)
def test_towers_and_connectors(variant: str, trains: tuple[str, ...], checkpointing: bool) -> None:
    check(CLIP_VARIANTS[variant], clip_batch(), trains, checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapted", [("llm",), ("vision", "llm")], ids="+".join)
def test_adapters(adapted: tuple[str, ...], checkpointing: bool) -> None:
    """To the last one, but for the gradients that the first layer's q, k and v would give to the frozen patch embedding."""
    lora = {name: LoraConfig(rank=3, dropout=0.0) for name in adapted}
    trains = ("vision", "connector", "llm") if "vision" in adapted else ("connector", "llm")
    batch = mixed_batch()
    model, lengths = model_and_lengths(MODEL, ReducerConfig(), trains, batch, checkpointing)
    adapters = adapter_sizes(model.components(), lora)
    add_adapters(model.components(), lora)
    forward, backward = measured(model, batch)
    sizes = BatchSizes.of(batch).reduced(lengths)
    counted = count_flops(
        MODEL, sizes, trains, adapters=adapters, activation_checkpointing=checkpointing, hardware=True
    )
    assert counted.forward.pop("llm") == pytest.approx(forward.pop("llm"), rel=0.01)  # the angles of RoPE are left out
    assert counted.forward == pytest.approx(forward)
    unused = 3 * 2 * sum(sizes.frame_lengths) * 32 * (32 + 3) if "vision" in adapted else 0
    found = sum(counted.backward.values()) - unused
    assert found == pytest.approx(backward, rel=0.01 if checkpointing else 1e-9)
    whole = count_flops(MODEL, sizes, trains, activation_checkpointing=checkpointing, hardware=True)
    assert found < 0.9 * sum(whole.backward.values())  # frozen weights have no gradient


def test_what_the_mathematics_needs_is_less_than_what_the_hardware_does() -> None:
    """By hand: two samples of 3 and 2 tokens, two frames of 4 and 2 patches; two layers, 40 and 32 wide."""
    sizes = BatchSizes(frame_lengths=[4, 2], num_clips=0, num_kept_tokens=3, lengths=[3, 2], num_labels=2)
    needed, done = (
        count_flops(MODEL, sizes, ("vision", "connector", "llm"), activation_checkpointing=hardware, hardware=hardware)
        for hardware in (False, True)
    )
    # causal: 1+2+3 and 1+2 pairs of 9 and 4
    assert done.forward["llm"] - needed.forward["llm"] == 2 * 4 * 40 * (13 - 9)
    assert done.forward["vision"] == needed.forward["vision"]
    attention = 2 * 4 * 32 * (16 + 4)
    patches, last_layers = 6 * 2 * (3 * 14 * 14) * 32, 2 * 6 * 2 * 48 * 32  # which are not computed again
    recomputed = done.forward["vision"] - patches - last_layers
    assert done.backward["vision"] - needed.backward["vision"] == 0.5 * attention + recomputed


def test_a_text_needs_no_clip_though_the_hardware_runs_one() -> None:
    sizes = BatchSizes(frame_lengths=(), num_clips=0, num_kept_tokens=0, lengths=[7], num_labels=2)
    needed, done = (count_flops(CLIP_MODEL, sizes, ("vision",), hardware=hardware) for hardware in (False, True))
    assert needed.forward["vision"] == needed.backward["vision"] == 0
    assert done.forward["vision"] > 0
