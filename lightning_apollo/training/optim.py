"""The optimizer of a stage: AdamW with one rate per component and a cosine that starts with a linear warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.schedule import check_rates, cosine_with_warmup, warmup_steps


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


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, num_steps: int) -> LambdaLR:
    """The schedule over a stage's `num_steps` optimizer steps, to be advanced after each of them; ValueError of `check_rates`."""
    check_rates(config, num_steps)
    warmup = warmup_steps(config, num_steps)
    return LambdaLR(optimizer, partial(cosine_with_warmup, num_steps=num_steps, num_warmup_steps=warmup))
