"""Adapters against the formula by hand. Trained and kept weights, merging, 4-bit weights."""

import builtins
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.checkpoint.adapter import merged
from lightning_apollo.models.checkpoint.files import stored
from lightning_apollo.models.config import LoraConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.lora import (
    adapter_sizes,
    add_adapters,
    layer_linears,
    merge_adapter,
    split_weights,
    through_nf4,
)
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import PackedBatch
from tests.models.clips import CLIP_MODEL, FRAMES, IMAGE, VIDEO, VIDEOMAE, VJEPA2, clip_item, clip_pixels, randomize
from tests.models.samples import MODEL, image, pack, sample, video
from tests.tolerances import SUMMATION

QUIET = LoraConfig(rank=3, alpha=6, dropout=0.0)
BOTH = {"llm": QUIET, "vision": replace(QUIET, rank=2)}
TRAINS = {"vision": 1e-3, "connector": 1e-3, "llm": 1e-3}


def batch() -> PackedBatch:
    return pack(sample(num_text=9, seed=1), sample(image(56, 84, 1), video(2, 28, 56, 2), num_text=20, seed=2))


def adapted(lora: Mapping[str, LoraConfig], config: ModelConfig = MODEL) -> VideoLMM:
    """A model with large weights and adapters that are not at their start."""
    model = build_model(config, ReducerConfig())
    randomize(model)
    add_adapters(model.components(), lora)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


def merged_state(model: VideoLMM, lora: Mapping[str, LoraConfig]) -> dict[str, Tensor]:
    split = split_weights(model.state_dict(), TRAINS, lora)
    frozen, trained = ({name: stored(t) for name, t in part.items()} for part in (split.frozen, split.trained))
    return {name: tensor.read() for name, tensor in merged(frozen, trained, lora).items()}


def test_the_formula_on_one_layer() -> None:
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, -0.5])
    down, up = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[2.0, 9.0], [10.0, 9.0]])
    assert merge_adapter(weight, down, up, scale=0.5).tolist() == [[2.0, 1.0], [8.0, -1.0]]  # by hand
    linear, holder = torch.nn.Linear(2, 2), torch.nn.Module()
    linear.weight.data, linear.bias.data = weight, bias
    holder.layers = torch.nn.ModuleList([linear])
    add_adapters({"llm": holder}, {"llm": LoraConfig(rank=2, alpha=1, dropout=0.0)})
    state = holder.state_dict(keep_vars=True)
    state["layers.0.lora_A.default.weight"].data.copy_(down)
    state["layers.0.lora_B.default.weight"].data.copy_(up)
    assert holder.layers[0](torch.tensor([1.0, 3.0])).tolist() == [2.0 + 3.0 + 0.5, 8.0 - 3.0 - 0.5]


def test_only_adapters_and_whole_components_train_and_b_starts_at_zero() -> None:
    model = build_model(MODEL, ReducerConfig())
    randomize(model)
    with torch.no_grad():
        before = model(batch()).logits
    add_adapters(model.components(), BOTH)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {
        f"connector.{n}" for n in model.connector.state_dict()
    }
    assert not any(p.any() for name, p in model.named_parameters() if ".lora_B." in name)
    torch.testing.assert_close(model(batch()).logits, before, rtol=0, atol=0)  # as the model was
    with torch.device("meta"):
        sizes = adapter_sizes(build_model(MODEL, ReducerConfig()).components(), BOTH)
    for name in BOTH:
        counted = sum(p.numel() for p in model.components()[name].parameters() if p.requires_grad)
        assert counted == sizes[name].num_parameters
    assert sizes["vision"].num_linear == 2 * (4 * 32 * 32 + 2 * 32 * 48)


def test_the_same_seed_gives_the_same_adapters() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(adapted(BOTH))
    first, second = models
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


TOWERS = {
    "siglip and internvideo2": CLIP_MODEL,
    "vjepa2": replace(CLIP_MODEL, fused=FusedEncoderConfig(IMAGE, VJEPA2, FRAMES)),
    "videomae": replace(CLIP_MODEL, fused=FusedEncoderConfig(None, VIDEOMAE, FRAMES)),
    "tubelets": replace(CLIP_MODEL, fused=FusedEncoderConfig(None, replace(VIDEO, tubelet_size=2), FRAMES)),
}


@pytest.mark.parametrize("name", TOWERS)
def test_every_adapter_of_every_tower_takes_part(name: str) -> None:
    """A tower that multiplied by a weight without calling its layer would leave that layer's adapter out."""
    config = TOWERS[name]
    model = adapted(BOTH, config)
    item = clip_item(clip_pixels(FRAMES, 12, 10, 1), config)
    model(pack(sample(item, num_text=20, seed=2, patch_size=4))).logits.square().sum().backward()
    adapters = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    assert len(adapters) == 2 * sum(len(layer_linears(part)) for part in build(config))
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapters.values())


def build(config: ModelConfig) -> list[torch.nn.Module]:
    model = build_model(config, ReducerConfig())
    return [model.vision_encoder, model.llm]


@pytest.mark.parametrize("lora", [BOTH, {"llm": replace(QUIET, modules=["q_proj", "down_proj"])}], ids=["all", "some"])
def test_a_merged_model_answers_as_the_one_with_adapters(lora: Mapping[str, LoraConfig]) -> None:
    model, plain = adapted(lora), build_model(MODEL, ReducerConfig())
    plain.load_state_dict(merged_state(model, lora))
    with torch.no_grad():
        expected, found = model(batch()).logits, plain(batch()).logits
        add = {name: torch.zeros_like(p) for name, p in model.named_parameters() if ".lora_B." in name}
        model.load_state_dict(add, strict=False)
        assert (model(batch()).logits - expected).abs().max() > 0.1  # the adapters matter
    torch.testing.assert_close(found, expected, rtol=SUMMATION[torch.float32], atol=SUMMATION[torch.float32])


def test_modules_choose_linear_layers_by_their_last_name() -> None:
    model = adapted({"llm": replace(QUIET, modules=["q_proj", "v_proj"])})
    wrapped = {name.split(".lora_A")[0] for name in model.state_dict() if ".lora_A." in name}
    assert wrapped == {f"llm.model.layers.{n}.self_attn.{m}_proj" for n in range(2) for m in "qv"}
    with pytest.raises(ValueError, match=r"lora\.vision\.modules.*o_proj.*fc1.*fc2.*k_proj"):
        adapted({"vision": replace(QUIET, modules=["o_proj"])})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, r"\brank .*\b0\b"),
        ({"alpha": 0}, r"\balpha .*\b0\b"),
        ({"dropout": 1.0}, r"\bdropout .*\b1\.0\b"),
        ({"quantize": "int4"}, r"quantize .*none, nf4.*'int4'"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LoraConfig(**values)


def test_adapters_of_bfloat16_weights_are_float32() -> None:
    model = build_model(MODEL, ReducerConfig()).bfloat16()
    add_adapters(model.components(), BOTH)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16), name


# The NF4 code: 16 quantiles of a normal distribution (arXiv 2305.14314, appendix E)
NF4 = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626]
NF4 += [0.7230, 1.0]


def nearest_nf4(weight: Tensor) -> Tensor:
    """The definition: in blocks of 64 numbers, each becomes the nearest of 16 multiples of its block's largest."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    code = torch.tensor(NF4)
    return (code[(blocks / largest)[..., None].sub(code).abs().argmin(dim=-1)] * largest).reshape(weight.shape)


def test_four_bits_are_those_of_the_paper() -> None:
    weight = torch.randn(32, 64)
    found, expected = through_nf4(weight), nearest_nf4(weight)
    assert (found - weight).abs().max() > 0.1  # 16 values for all
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # largest values are rounded to 8 bit


def test_a_merged_model_answers_as_the_one_in_four_bits() -> None:
    lora = {name: replace(config, quantize="nf4") for name, config in BOTH.items()}
    model, plain = adapted(lora), build_model(MODEL, ReducerConfig())
    packed = model.llm.get_submodule("model.layers.0.mlp.down_proj.base_layer").get_parameter("weight")
    assert packed.dtype == torch.uint8
    assert packed.numel() == 40 * 64 // 2
    split = split_weights(model.state_dict(), TRAINS, lora)
    assert len(split.quantized) == 2 * 7 + 2 * 6
    plain.load_state_dict(merged_state(model, lora))
    with torch.no_grad():
        found, expected = plain(batch()).logits, model(batch()).logits
    torch.testing.assert_close(found, expected, rtol=SUMMATION[torch.float32], atol=SUMMATION[torch.float32])


def test_without_the_extra_four_bits_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    of_python = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(name)
        return of_python(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"nf4.*pip install 'bitsandbytes>=[\d.]+'$"):
        adapted({"llm": replace(QUIET, quantize="nf4")})
