"""Connectors of clips: the resampler against its formulas in float64, the pooling ones against means by hand."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from lightning_apollo.models.config import ConnectorConfig
from lightning_apollo.models.connector import (
    PerceiverConnector,
    PoolConnector,
    WeightedNorm,
    build_connector,
    pooled_grid,
)
from lightning_apollo.recipe.schema import load_recipe
from tests.models.clips import assert_near, randomize

TINY = ConnectorConfig("perceiver", num_tokens=5, depth=2, num_heads=6, head_dim=4, num_kv_heads=2, ff_multi=3)


def perceiver(config: ConnectorConfig = TINY) -> PerceiverConnector:
    connector = cast(PerceiverConnector, build_connector(config, vision_width=10, llm_width=16))
    randomize(connector)
    return connector.double()


def weighted_norm(weights: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    scale, shift = weights[f"{prefix}.norm.weight"], weights[f"{prefix}.norm.bias"]
    return (normed * scale + shift) * weights[f"{prefix}.wheight"]


def attend(weights: dict[str, Tensor], prefix: str, latents: Tensor, context: Tensor) -> Tensor:
    """(L, E) and (P, E) to (L, E): every query head by itself, with the keys of its group."""
    answering = torch.cat([context, latents])
    q = latents @ weights[f"{prefix}.q_proj.weight"].T
    k, v = (answering @ weights[f"{prefix}.{name}_proj.weight"].T for name in "kv")
    size, heads = TINY.head_dim, []
    for head in range(TINY.num_heads):
        group = head // (TINY.num_heads // TINY.num_kv_heads)
        query, key, value = (x[:, i * size : (i + 1) * size] for x, i in ((q, head), (k, group), (v, group)))
        heads.append((query @ key.T / size**0.5).softmax(dim=1) @ value)
    return torch.cat(heads, dim=1) @ weights[f"{prefix}.o_proj.weight"].T


def reference_perceiver(weights: dict[str, Tensor], features: Tensor) -> Tensor:
    """(P, D) places of one clip to (L, E)."""
    context = features @ weights["proj.weight"].T + weights["proj.bias"]
    latents = weights["resampler.latents"]
    for layer in range(TINY.depth):
        prefix = f"resampler.layers.{layer}"
        asking = weighted_norm(weights, f"{prefix}.input_latents_norm", latents)
        told = weighted_norm(weights, f"{prefix}.input_context_norm", context)
        latents = latents + attend(weights, f"{prefix}.self_attn", asking, told)
        inner = weighted_norm(weights, f"{prefix}.post_attention_layernorm", latents)
        gate, up = (inner @ weights[f"{prefix}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        latents = latents + (gate * gate.sigmoid() * up) @ weights[f"{prefix}.mlp.down_proj.weight"].T
    return weighted_norm(weights, "resampler.norm", latents)


def test_the_resampler_and_its_gradients_equal_the_formulas() -> None:
    connector = perceiver()
    features = torch.randn(3, 2, 2, 3, 10, dtype=torch.float64, requires_grad=True)
    weights: dict[str, Tensor] = {**dict(connector.named_parameters())}
    tokens = connector(features)
    expected = torch.stack([reference_perceiver(weights, clip.reshape(12, 10)) for clip in features])
    assert_near(tokens, expected)
    inputs, readout = [features, *weights.values()], torch.randn_like(tokens)
    gradients = [torch.autograd.grad((out * readout).sum(), inputs) for out in (tokens, expected)]
    for name, ours, theirs in zip(["features", *weights], *gradients, strict=True):
        assert ours.any(), name
        assert_close(ours, theirs, atol=1e-11, rtol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("size", "width", "matrices", "norms"),
    [("1.5b", 1536, 38_340_096, 18_432), ("3b", 2048, 63_703_040, 24_576), ("7b", 3584, 177_540_608, 43_008)],
)
def test_the_resamplers_have_their_sizes(size: str, width: int, matrices: int, norms: int) -> None:
    """papers.md 1.1: 38.34, 63.70 and 177.5 million without the norms."""
    queries, keys = 16 * 96, 4 * 96
    assert matrices == 2560 * width + width + 128 * width + 2 * width * (queries + keys) + 3 * 4 * width**2
    assert norms == 4 * 3 * width
    model = load_recipe(f"apollo-{size}").model
    assert model.fused is not None
    assert (model.fused.width, model.llm.hidden_size) == (2560, width)
    with torch.device("meta"):
        connector = build_connector(model.connector, model.fused.width, width)
    of_norms = [p.numel() for m in connector.modules() if isinstance(m, WeightedNorm) for p in m.parameters()]
    assert sum(of_norms) == norms
    assert sum(p.numel() for p in connector.parameters()) == matrices + norms


def test_names_are_those_of_the_released_weights() -> None:
    names = ["resampler.latents"]
    for layer in ("resampler.layers.0.", "resampler.layers.1."):
        for norm in ("input_latents_norm", "input_context_norm", "post_attention_layernorm"):
            names += [f"{layer}{norm}.{name}" for name in ("wheight", "norm.weight", "norm.bias")]
        names += [f"{layer}self_attn.{name}_proj.weight" for name in "qkvo"]
        names += [f"{layer}mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    names += [f"resampler.norm.{name}" for name in ("wheight", "norm.weight", "norm.bias")]
    assert sorted(perceiver().state_dict()) == sorted(["proj.weight", "proj.bias", *names])


@torch.no_grad()
def test_no_score_matrix_is_kept() -> None:
    """The flash backend raises where it would have to fall back."""
    connector, features = perceiver().float(), torch.randn(2, 4, 3, 3, 10)
    tokens = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend):
            tokens.append(connector(features))
    assert_near(tokens[0], tokens[1])


@torch.no_grad()
def test_the_resampler_knows_no_order_of_places() -> None:
    connector, features = perceiver(), torch.randn(2, 2, 3, 3, 10, dtype=torch.float64)
    mixed = features.flatten(1, 3)[:, torch.randperm(18)].view_as(features)
    assert_near(connector(mixed), connector(features))


@pytest.mark.parametrize("kind", ["perceiver", "mlp_pool", "conv_pool"])
@pytest.mark.parametrize("num_tokens", [1, 7, 16])
def test_the_number_of_tokens_is_a_value(kind: str, num_tokens: int) -> None:
    connector = build_connector(ConnectorConfig(kind, num_tokens), vision_width=10, llm_width=8)
    assert connector(torch.randn(2, 4, 3, 5, 10)).shape == (2, num_tokens, 8)
    empty = connector(torch.randn(0, 4, 3, 5, 10))
    assert empty.shape == (0, num_tokens, 8)
    empty.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in connector.parameters())


@pytest.mark.parametrize(
    ("num_tokens", "num_frames", "expected"),
    [
        (128, 4, (4, 4, 8)),
        (64, 4, (4, 4, 4)),
        (16, 4, (4, 2, 2)),
        (6, 4, (2, 1, 3)),
        (1, 4, (1, 1, 1)),
        (7, 4, (1, 1, 7)),
        (13, 13, (13, 1, 1)),
        (30, 3, (3, 2, 5)),
    ],
)
def test_pooled_grids_by_hand(num_tokens: int, num_frames: int, expected: tuple[int, int, int]) -> None:
    assert pooled_grid(num_tokens, num_frames) == expected


def pool(kind: str, num_tokens: int) -> PoolConnector:
    """Two channels, one after the other left as it is: the middle layer's GELU is taken out."""
    connector = cast(
        PoolConnector, build_connector(ConnectorConfig(kind, num_tokens, init="he"), vision_width=2, llm_width=2)
    )
    connector.readout[1] = nn.Identity()
    for layer in (connector.readout[0], connector.readout[2]):
        eye = torch.eye(2)
        layer.weight.data = eye if isinstance(layer, nn.Linear) else F.pad(eye[:, :, None, None], (1, 1, 1, 1))
    return connector


@pytest.mark.parametrize("kind", ["mlp_pool", "conv_pool"])
def test_pooled_tokens_are_means_over_time_then_rows_then_columns(kind: str) -> None:
    first = torch.arange(32.0).view(2, 4, 4)  # (T, rows, columns)
    tokens = pool(kind, 8)(torch.stack([first, -first], dim=-1)[None])  # onto 2 × 2 × 2
    means = torch.tensor([2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5])  # of 0 1 4 5, of 2 3 6 7 ...
    assert_close(tokens, torch.stack([means, -means], dim=-1)[None])


def test_the_mlp_is_two_layers_with_the_exact_gelu() -> None:
    connector = cast(PoolConnector, build_connector(ConnectorConfig("mlp_pool", 1), vision_width=4, llm_width=3))
    randomize(connector)
    connector.double()
    features = torch.randn(2, 2, 2, 2, 4, dtype=torch.float64)
    weights = connector.state_dict()
    inner = features @ weights["readout.0.weight"].T + weights["readout.0.bias"]
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    expected = (inner @ weights["readout.2.weight"].T + weights["readout.2.bias"]).mean(dim=(1, 2, 3))
    assert_near(connector(features)[:, 0], expected)


def test_the_convolutions_see_one_frame_at_a_time() -> None:
    connector = cast(PoolConnector, build_connector(ConnectorConfig("conv_pool", 36), vision_width=4, llm_width=3))
    features = torch.randn(2, 4, 3, 3, 4)
    first, _, second = connector.readout
    frames = [second(F.gelu(first(frame.permute(2, 0, 1)[None]))) for clip in features for frame in clip]
    mapped = torch.cat(frames).unflatten(0, (2, 4)).permute(0, 1, 3, 4, 2)  # as many places as tokens: none is averaged
    assert isinstance(first, nn.Conv2d)
    assert first.kernel_size == (3, 3)
    assert_near(connector(features), mapped.flatten(1, 3))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "qformer"}, r"connector\.kind .*mlp, perceiver, mlp_pool, conv_pool.*'qformer'"),
        ({"num_heads": 6}, r"num_heads 6 .*num_kv_heads 4$"),
        ({"num_tokens": 0}, r"connector.*\b1$"),
    ],
)
def test_a_connector_that_cannot_be_is_an_error(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConnectorConfig(**values)


def test_first_sharpness_scales_the_first_queries_alone() -> None:
    states = []
    for sharpness in (1.0, 2.5):
        torch.manual_seed(0)
        config = ConnectorConfig(kind="perceiver", num_tokens=2, first_sharpness=sharpness)
        states.append(build_connector(config, 8, 16).state_dict())
    plain, sharp = states
    for name, tensor in plain.items():
        scale = 2.5 if name.endswith("q_proj.weight") else 1.0
        assert torch.equal(sharp[name], scale * tensor), name
