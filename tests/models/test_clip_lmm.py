"""The whole of a tiny Apollo: packing, chunks of clips and refused configurations."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.config import ConnectorConfig, ReducerConfig
from lightning_apollo.models.video_lmm import ClipLMM, VideoLMM, build_model
from lightning_apollo.structures import ClipShape, Sample, VisualBatch
from tests.models.clips import (
    CLIP_MODEL,
    CONNECTOR,
    FRAMES,
    FUSED,
    IMAGE,
    VIDEO,
    assert_near,
    clip_item,
    clip_model,
    clip_pixels,
)
from tests.models.samples import MODEL, pack, sample
from tests.tolerances import MODEL as MODEL_TOLERANCE
from tests.tolerances import SUMMATION

FLOAT = torch.float32


@pytest.fixture(scope="module")
def model() -> VideoLMM:
    return clip_model()


def video(num_clips: int, seed: int, height: int = 9, width: int = 14):
    return clip_item(clip_pixels(num_clips * FRAMES, height, width, seed))


def image(seed: int):
    return clip_item(clip_pixels(1, 16, 11, seed))


def mixed_samples() -> list[Sample]:
    """Videos, images and text alone, of different sizes."""
    return [
        sample(video(2, 1), seed=1),
        sample(seed=2),
        sample(image(3), seed=3),
        sample(image(4), video(1, 5, 20, 8), seed=4),
    ]


def gradients_of(model: VideoLMM, *samples: Sample) -> dict[str, Tensor]:
    """Of the parameters that got one."""
    model.zero_grad()
    output = model(pack(*samples))
    F.cross_entropy(output.logits, output.targets).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_packed_equals_one_by_one(model: VideoLMM) -> None:
    samples = mixed_samples()
    output = model(pack(*samples))
    alone = torch.cat([model(pack(one)).logits for one in samples])
    assert_close(output.logits, alone, atol=MODEL_TOLERANCE[FLOAT], rtol=MODEL_TOLERANCE[FLOAT])
    num_tokens = (2 + 1 + 1 + 1) * CONNECTOR.num_tokens
    assert (output.num_visual_tokens, output.num_kept_tokens) == (num_tokens, num_tokens)


@torch.no_grad()
def test_tokens_are_those_of_each_clip_in_order(model: VideoLMM) -> None:
    """Clip after clip of item after item, each through encoder and connector by itself."""
    items = [video(3, 1), image(2), video(1, 3, 20, 8)]
    tokens, reduction = model.encode(VisualBatch.from_items(items, IMAGE.patch_size))
    clips = [clip for item in items for clip in item.frames.pixels.split(FRAMES)]
    expected = torch.cat([model.connector(model.vision_encoder([clip]))[0] for clip in clips])
    assert_near(tokens, expected)
    assert reduction.run_tokens == [CONNECTOR.num_tokens] * 5


@torch.no_grad()
def test_changing_a_clip_leaves_the_tokens_of_the_others_bit_equal(model: VideoLMM) -> None:
    pixels = clip_pixels(3 * FRAMES, 9, 14, 1)
    changed = pixels.clone()
    changed[2 * FRAMES - 1] = 255 - changed[2 * FRAMES - 1]  # the last frame of the second clip
    tokens = [
        model.encode(VisualBatch.from_items([image(5), clip_item(one), image(6)], IMAGE.patch_size))[0]
        for one in (pixels, changed)
    ]
    same = (tokens[0] == tokens[1]).all(dim=1).view(5, CONNECTOR.num_tokens)
    assert same.any(dim=1).tolist() == same.all(dim=1).tolist() == [True, True, False, True, True]


@torch.no_grad()
@pytest.mark.parametrize("encode_batch_size", [1, 2, 100])
def test_clips_that_run_at_once_change_nothing(model: VideoLMM, encode_batch_size: int) -> None:
    config = replace(CLIP_MODEL, fused=replace(FUSED, encode_batch_size=encode_batch_size))
    chunked = build_model(config, ReducerConfig())
    chunked.load_state_dict(model.state_dict())
    sizes: list[int] = []
    chunked.vision_encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    visual = VisualBatch.from_items([video(3, 1), image(2), video(1, 3, 20, 8)], IMAGE.patch_size)
    tokens = chunked.encode(visual)[0]
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 100: [5]}[encode_batch_size]
    assert_near(tokens, model.encode(visual)[0])


def test_text_only_gives_every_parameter_a_gradient_and_the_vision_parts_zeros(model: VideoLMM) -> None:
    gradients = gradients_of(model, sample(seed=1), sample(seed=2))
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(not gradient.any() for name, gradient in gradients.items() if not name.startswith("llm."))
    assert any(gradient.any() for gradient in gradients.values())


def test_media_give_every_parameter_a_gradient_that_is_not_zero(model: VideoLMM) -> None:
    gradients = gradients_of(model, *mixed_samples())
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert [name for name, gradient in gradients.items() if not gradient.any()] == []


def test_activation_checkpointing_changes_no_gradient(model: VideoLMM) -> None:
    model.train()
    parts = ("vision_encoder.towers.image.model.encoder.layers.0.mlp", "connector.proj", "llm.model.layers.0.mlp")
    parts += ("vision_encoder.towers.video.model.blocks.0.mlp",)
    runs: dict[str, list[bool]] = {part: [] for part in parts}
    hooks = [
        model.get_submodule(part).register_forward_pre_hook(lambda *_, part=part: runs[part].append(enabled))
        for part in parts
    ]
    gradients = []
    for enabled in (False, True):
        model.set_activation_checkpointing(enabled)
        gradients.append(gradients_of(model, *mixed_samples()))
    for hook in hooks:
        hook.remove()
    model.set_activation_checkpointing(False)
    model.eval()
    assert runs == {part: [False, True, True] for part in parts}  # forward; forward and again in the backward pass
    assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_a_frozen_encoder_leaves_the_connector_its_gradient(model: VideoLMM) -> None:
    expected = gradients_of(model, *mixed_samples())
    model.vision_encoder.requires_grad_(False)
    frozen = gradients_of(model, *mixed_samples())
    model.vision_encoder.requires_grad_(True)
    assert frozen.keys() == {name for name in expected if not name.startswith("vision_encoder.")}
    for name, gradient in frozen.items():
        assert_close(gradient, expected[name], atol=SUMMATION[FLOAT], rtol=MODEL_TOLERANCE[FLOAT])


def test_the_clip_that_the_data_cuts_follows_from_the_model() -> None:
    assert CLIP_MODEL.clip == ClipShape(num_frames=4, num_tokens=6, image_size=12)
    assert MODEL.clip is None
    assert (CLIP_MODEL.patch_size, MODEL.patch_size) == (4, 14)
    fused = FusedEncoderConfig(replace(IMAGE, weights="a"), replace(VIDEO, weights="b"))
    named = replace(CLIP_MODEL, fused=fused, llm=replace(MODEL.llm, weights="c"))
    assert named.weights == {"image": "a", "video": "b", "llm": "c"}
    assert isinstance(clip_model(), ClipLMM)


@pytest.mark.parametrize("kind", ["perceiver", "mlp_pool", "conv_pool"])
def test_every_connector_of_clips_fits(kind: str) -> None:
    model = clip_model(replace(CLIP_MODEL, connector=replace(CONNECTOR, kind=kind)))
    output = model(pack(sample(video(2, 1), image(2), seed=1)))
    assert output.num_visual_tokens == 3 * CONNECTOR.num_tokens
    assert output.logits.isfinite().all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vision": MODEL.vision}, r"encoder: vision .*fused"),
        ({"fused": None}, r"encoder: vision .*fused"),
        ({"connector": ConnectorConfig("mlp")}, r"connector\.kind mlp .*`fused`"),
        ({"fused": None, "vision": MODEL.vision}, r"connector\.kind perceiver .*`vision`"),
    ],
)
def test_parts_that_do_not_go_together_are_an_error(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(CLIP_MODEL, **values)


def test_an_encoder_of_clips_takes_no_reducer() -> None:
    with pytest.raises(ValueError, match=r"reducer\.kind diff_fp\b"):
        build_model(CLIP_MODEL, ReducerConfig(kind="diff_fp"))
