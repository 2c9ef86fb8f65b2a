"""Parameter groups and the schedule, against hand-made expectations."""

import pytest
import torch
from torch import nn

from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.optim import build_optimizer, build_schedule, parameter_groups
from lightning_apollo.training.schedule import check_rates, cosine_with_warmup


def components() -> dict[str, nn.Module]:
    return {
        "vision": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
        "connector": nn.Linear(3, 4),
        "llm": nn.Embedding(5, 4),
    }


def test_every_trained_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    modules = components()
    modules["llm"].requires_grad_(False)
    groups = parameter_groups(modules, {"vision": 1e-5, "connector": 1e-3}, weight_decay=0.1)
    found = {
        id(parameter): (group["name"], group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    linear, norm = modules["vision"].children()
    connector = modules["connector"]
    assert found == {
        id(linear.weight): ("vision", 1e-5, 0.1),
        id(linear.bias): ("vision", 1e-5, 0.0),
        id(norm.weight): ("vision", 1e-5, 0.0),
        id(norm.bias): ("vision", 1e-5, 0.0),
        id(connector.weight): ("connector", 1e-3, 0.1),
        id(connector.bias): ("connector", 1e-3, 0.0),
    }
    assert sum(len(group["params"]) for group in groups) == 6


def test_a_trained_component_without_a_rate_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"component llm\b.*\bNone$"):
        parameter_groups(components(), {"vision": 1e-5, "connector": 1e-3}, weight_decay=0.0)


def test_a_rate_for_a_frozen_component_is_an_error() -> None:
    modules = components()
    modules["llm"].requires_grad_(False)
    with pytest.raises(ValueError, match=r"component llm\b.*\b0\.1$"):
        parameter_groups(modules, {"vision": 1e-5, "connector": 1e-3, "llm": 0.1}, weight_decay=0.0)


def test_a_parameter_of_two_components_is_an_error() -> None:
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"components vision and llm\b"):
        parameter_groups({"vision": shared, "llm": shared}, {"vision": 0.1, "llm": 0.1}, weight_decay=0.0)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (8, 0.8535533905932737), (12, 0.5), (20, 0.0), (21, 0.0)],
)
def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine(step: int, share: float) -> None:
    assert cosine_with_warmup(step, num_steps=20, num_warmup_steps=4) == pytest.approx(share, abs=1e-15)


def test_every_group_keeps_its_own_peak() -> None:
    groups = parameter_groups(components(), {"vision": 1e-5, "connector": 1e-3, "llm": 1e-4}, weight_decay=0.0)
    config = OptimizerConfig(warmup_ratio=0.2)
    optimizer = build_optimizer(groups, config)
    schedule = build_schedule(optimizer, config, num_steps=10)
    peaks: dict[str, float] = {}
    for _ in range(10):
        for group in optimizer.param_groups:
            peaks[group["name"]] = max(peaks.get(group["name"], 0.0), group["lr"])
        optimizer.step()
        schedule.step()
    assert peaks == {"vision": 1e-5, "connector": 1e-3, "llm": 1e-4}
    assert all(abs(group["lr"]) < 1e-12 for group in optimizer.param_groups)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([{"params": [parameter], "lr": 0.5}], OptimizerConfig())
    schedule = build_schedule(optimizer, OptimizerConfig(warmup_ratio=0.0), num_steps=2)
    assert schedule.get_last_lr() == [0.5]


@pytest.mark.parametrize(
    ("num_steps", "warmup_ratio", "trains"),
    [(1, 0.03, False), (1, 0.99, False), (1, 0.0, True), (2, 0.03, True), (2, 0.99, True), (3, 0.5, True)],
)
def test_a_stage_needs_a_step_with_a_rate(num_steps: int, warmup_ratio: float, trains: bool) -> None:
    config = OptimizerConfig(warmup_ratio=warmup_ratio)
    if trains:
        check_rates(config, num_steps)
        return
    with pytest.raises(ValueError, match=r"0.*warmup_ratio=0"):
        check_rates(config, num_steps)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betas": [0.9]}, r"\bbetas "),
        ({"warmup_ratio": 1.0}, r"\bwarmup_ratio "),
        ({"gradient_clip": -1.0}, r"\bgradient_clip "),
    ],
)
def test_impossible_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**values)
