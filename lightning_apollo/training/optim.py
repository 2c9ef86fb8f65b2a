"""The optimizer of a stage: AdamW with one rate per component and a cosine that starts with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; the defaults are VideoLLaMA 3's (released training scripts)."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the two running means
    eps: float = 1e-8  # added to the root of the second mean
    weight_decay: float = 0.0  # per unit of rate; never on biases and norms
    warmup_ratio: float = 0.03  # share of the stage's optimizer steps with a rising rate
    gradient_clip: float = 0.0  # largest global norm of the gradient; 0 switches clipping off

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"optimizer.betas must be two numbers in [0, 1), not {self.betas}")
        if not 0.0 <= self.warmup_ratio < 1.0:
            raise ValueError(f"optimizer.warmup_ratio must be in [0, 1), not {self.warmup_ratio}")
        for name in ("eps", "weight_decay", "gradient_clip"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"optimizer.{name} must not be negative, it is {getattr(self, name)}")


def parameter_groups(
    components: Mapping[str, nn.Module], rates: Mapping[str, float], weight_decay: float
) -> list[dict]:
    """AdamW groups, two for each trained component: matrices with decay, biases and norms (one dimension) without.

    Every parameter that requires a gradient is in exactly one group; a ValueError names the component that breaks this.
    """
    groups, owner = [], {}
    for name, module in components.items():
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if bool(trainable) != (name in rates):
            state = "has parameters that train" if trainable else "has no parameter that trains"
            raise ValueError(f"component {name} {state}, but its rate is {rates.get(name)}")
        for parameter in trainable:
            if owner.setdefault(parameter, name) != name:
                raise ValueError(f"components {owner[parameter]} and {name} share a trained parameter")
        matrices = [parameter for parameter in trainable if parameter.ndim > 1]
        vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
        for parameters, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if parameters:
                groups.append({"name": name, "params": parameters, "lr": rates[name], "weight_decay": decay})
    return groups


def build_optimizer(groups: list[dict], config: OptimizerConfig) -> AdamW:
    """AdamW over `groups`; the fused kernel where every parameter lies on a GPU."""
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return AdamW(groups, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=on_gpu)


def cosine_with_warmup(step: int, num_steps: int, num_warmup_steps: int) -> float:
    """The share of the peak rate at optimizer step `step` (from 0): linear from 0, then half a cosine down to 0."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def check_rates(config: OptimizerConfig, num_steps: int) -> None:
    """Raise ValueError where the schedule gives every one of `num_steps` optimizer steps the rate 0."""
    warmup = _num_warmup_steps(config, num_steps)
    if not any(cosine_with_warmup(step, num_steps, warmup) > 0.0 for step in range(num_steps)):
        steps = "the only step" if num_steps == 1 else f"every one of {num_steps} steps"
        raise ValueError(
            f"{steps} would have rate 0 and train nothing, with optimizer.warmup_ratio {config.warmup_ratio:g}: set "
            "optimizer.warmup_ratio=0, or let the stage take more steps"
        )


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, num_steps: int) -> LambdaLR:
    """The schedule over a stage's `num_steps` optimizer steps, to be advanced after each of them; ValueError of `check_rates`."""
    check_rates(config, num_steps)
    num_warmup_steps = _num_warmup_steps(config, num_steps)
    return LambdaLR(optimizer, partial(cosine_with_warmup, num_steps=num_steps, num_warmup_steps=num_warmup_steps))


def _num_warmup_steps(config: OptimizerConfig, num_steps: int) -> int:
    return math.ceil(config.warmup_ratio * num_steps)
