"""Costs of samples: constants against transformers' models, sums by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from lightning_apollo.data.plan.config import CostConfig, PlanError
from lightning_apollo.data.plan.costs import costs_of_samples, whole_costs
from tests.data.plan_samples import samples


def flops_of_linear_layers(layers: torch.nn.Module) -> int:
    """Two for each weight, for each row."""
    return 2 * sum(module.weight.numel() for module in layers.modules() if isinstance(module, torch.nn.Linear))


def test_the_constants_are_those_of_siglip_and_qwen() -> None:
    vision = SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
    llm = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    with torch.device("meta"):
        encoder, decoder = SiglipVisionModel(vision).encoder, Qwen2ForCausalLM(llm).model
    cost = CostConfig()
    assert cost.vision_patch == flops_of_linear_layers(encoder)
    assert cost.llm_token == flops_of_linear_layers(decoder)
    # Scores and their product with the values: a multiply-add for each channel and pair of rows, in each layer.
    assert cost.vision_square == 2 * 2 * 1152 * 27
    assert cost.llm_square == 2 * 2 * 3584 * 28 / 2


def test_a_cost_by_hand() -> None:
    costs = samples({"text": [10], "images": [20]}, patches=[0, 7])
    constants = CostConfig(vision_square=0.5, vision_patch=2.0, llm_square=0.25, llm_token=3.0)
    assert costs_of_samples(costs, constants).tolist() == [25 + 30, 24.5 + 14 + 100 + 60]


def test_whole_costs_keep_ratios_in_any_unit() -> None:
    cost = np.array([1.0, 3.0, 4.0])
    assert whole_costs(cost).tolist() == [2**28, 3 * 2**28, 2**30]
    assert whole_costs(cost * 1e-9).tolist() == whole_costs(cost * 1e15).tolist()
    assert whole_costs(np.zeros(2)).tolist() == [0, 0]


def test_a_sample_is_named_by_its_source_and_number() -> None:
    costs = samples({"text": [1, 1], "none": [], "images": [1, 1, 1]})
    assert [costs.source_range(name) for name in ("text", "none", "images")] == [range(2), range(2, 2), range(2, 5)]
    assert costs.describe(3) == "source images, sample 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches": np.zeros(2, dtype=np.int32)}, r"^patches: \(3,\) int32 .*\(2,\) int32"),
        ({"llm_tokens": np.ones(3)}, r"^llm_tokens: \(3,\) int32 .*\(3,\) float64"),
        ({"source": np.array([0, 1, 0], dtype=np.int16)}, r"ascending.*\b2\b"),
        ({"source": np.array([0, 1, 2], dtype=np.int16)}, r"ascending.*\b2\b"),
        ({"llm_tokens": np.array([1, 0, 1], dtype=np.int32)}, r"llm_tokens .*\b1\b"),
        ({"patches": np.array([1, -1, 1], dtype=np.int32)}, r"patches and vision_squares .*\b0\b"),
    ],
)
def test_arrays_that_do_not_fit_together(change: dict[str, np.ndarray], message: str) -> None:
    costs = samples({"a": [1, 2], "b": [3]})
    with pytest.raises(ValueError, match=message):
        replace(costs, **change)


@pytest.mark.parametrize("values", [(-1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, float("nan"), 1.0, 1.0)])
def test_constants_that_cannot_be_costs(values: tuple[float, ...]) -> None:
    with pytest.raises(PlanError, match=r"^cost: .*constants"):
        CostConfig(*values)
