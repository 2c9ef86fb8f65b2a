"""Random starts of connectors against recorded bytes, PyTorch's defaults and plain formulas."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_apollo.models.calibration import (
    channel_sums,
    deviation,
    first_layer,
    mean_and_deviation,
    scale_outputs,
    standardize_inputs,
)
from lightning_apollo.models.config import ConnectorConfig
from lightning_apollo.models.connector import build_connector
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import RecipeError, load_recipe
from tests.small_recipe import recipe

KINDS = ("mlp", "perceiver", "mlp_pool", "conv_pool")
# Of the models with seed 0, as they were before `connector.init`: name, place in memory and value of every weight
RECORDED = {
    ("videollama3-tiny", "mlp"): "fb206e5ce676d626f54c794b1aa6517bdc6bc2046a6fe305a7aeedb50231cd2c",
    ("apollo-tiny", "perceiver"): "334e4f1142e389483595f787d39dd887c1204f660f7252dee646ac26a2bf9f78",
    ("apollo-tiny", "mlp_pool"): "01155abcb76d060a9e8556ea7eb95ffab47541aece0b09f4adc560492286e2be",
    ("apollo-tiny", "conv_pool"): "b34bb2eef1b8230e29443e1f505ccc533c41a96f46cc7c32e6e00b67218b6580",
}


@pytest.mark.parametrize(("name", "kind"), RECORDED)
def test_the_weights_of_the_tiny_recipes_are_those_of_before(name: str, kind: str) -> None:
    one = load_recipe(name, [f"model.connector.kind={kind}"])
    torch.manual_seed(0)
    model = build_model(one.model, next(iter(one.stages.values())).reducer)
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    assert digest.hexdigest() == RECORDED[name, kind]


@pytest.mark.parametrize(
    ("name", "init"),
    [
        ("videollama3-tiny", "he"),
        ("apollo-tiny", "he"),
        ("smol", "he"),
        ("apollo-1.5b", "he"),
        ("apollo-3b", "he"),
        ("apollo-7b", "he"),
    ],
)
def test_shipped_recipes_name_what_they_had(name: str, init: str) -> None:
    assert load_recipe(name).model.connector.init == init


def test_the_default_is_pytorchs_own() -> None:
    torch.manual_seed(3)
    connector = build_connector(ConnectorConfig(), vision_width=10, llm_width=16)
    torch.manual_seed(3)
    expected = [*nn.Linear(10, 16).parameters(), *nn.Linear(16, 16).parameters()]
    assert all(torch.equal(own, other) for own, other in zip(connector.parameters(), expected, strict=True))


def test_an_unknown_start_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"connector.init.*'xavier'") as error:
        load_recipe("videollama3-tiny", ["model.connector.init=xavier"])
    assert "\n" not in str(error.value)


def test_calibrating_what_the_first_stage_does_not_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.adapt: model\.connector\.init calibrated"):
        recipe(
            tmp_path, "model.connector.init=calibrated", "stages.adapt.kind=Stage", "stages.adapt.trains={vision: 1e-3}"
        )


def features(shape: tuple[int, ...]) -> Tensor:
    """(…, 10) float64 with channels of means from -40 to 50 and deviations from 1e-3 to 1e4."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(*shape, 10, generator=generator, dtype=torch.float64)
    return noise * torch.logspace(-1, 4, 10).double() + torch.linspace(-40, 50, 10).double()


def connector_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = ConnectorConfig(kind, init="calibrated", num_tokens=4, num_heads=4, head_dim=4, num_kv_heads=2)
    return build_connector(config, vision_width=10, llm_width=16).double()


def test_sums_are_those_of_the_whole() -> None:
    values = features((20_000,))
    sums = channel_sums(values[:8]) + channel_sums(values[8:].view(8, -1, 10)) + channel_sums(values[:0])
    mean, spread = mean_and_deviation(sums)
    assert_close(mean, values.mean(dim=0))
    assert_close(spread, values.std(dim=0, correction=0), rtol=1e-4, atol=0.0)
    assert deviation(sums) == pytest.approx(values.std(correction=0).item(), rel=1e-9)
    assert deviation(channel_sums(values[:0])) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_standardised_connector_gives_what_it_gave_to_standardised_features(kind: str) -> None:
    given = features((50,)) if kind == "mlp" else features((3, 2, 4, 5))
    mean, spread = given.flatten(0, -2).mean(dim=0), given.flatten(0, -2).std(dim=0, correction=0)
    before, after = connector_of(kind), connector_of(kind)
    standardize_inputs(after, channel_sums(given))
    if kind != "conv_pool":
        assert_close(after(given), before((given - mean) / spread), rtol=1e-6, atol=1e-6)
        return
    old, new = first_layer(before), first_layer(after)
    assert isinstance(old, nn.Conv2d)
    inner = (given - mean) / spread  # (3, 2, 4, 5, 10); beside the edges no padding is seen
    expected = F.conv2d(inner.flatten(0, 1).permute(0, 3, 1, 2), old.weight, old.bias)
    assert_close(new(given.flatten(0, 1).permute(0, 3, 1, 2))[:, :, 1:-1, 1:-1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_multiplies_the_visual_tokens(kind: str) -> None:
    given = features((50,)) if kind == "mlp" else features((3, 2, 4, 5))
    before, after = connector_of(kind), connector_of(kind)
    for connector in (before, after):  # with biases that are not 0
        for parameter in connector.parameters():
            parameter.data += 0.01
    scale_outputs(after, 0.25)
    assert_close(after(given), 0.25 * before(given), rtol=1e-9, atol=1e-9)


def test_a_channel_that_stands_still_does_not_grow() -> None:
    given = features((50,))
    given[:, 3] = 7.0
    still = connector_of("mlp")
    weight = first_layer(still).weight.detach().clone()
    standardize_inputs(still, channel_sums(given))
    spread = given.std(dim=0, correction=0)
    assert_close(first_layer(still).weight[:, 3] * spread.square().mean().sqrt(), weight[:, 3])
    assert still(given).isfinite().all()
    assert_close(first_layer(still)(given)[:, 0].mean(), torch.zeros(()).double(), rtol=0.0, atol=1e-6)
