"""Low-rank adapters on a frozen component (LoRA, arXiv 2106.09685), whose weights may be held in 4 bit (QLoRA, arXiv 2305.14314).

A linear layer W gets two small matrices: y = W x + alpha / rank · B A x. A and B train, W does not. B starts at zero, so
that training starts from the model as it was. peft puts them in place and calls them:

    q_proj.weight   becomes   q_proj.base_layer.weight
                              q_proj.lora_A.default.weight   (rank, inputs)
                              q_proj.lora_B.default.weight   (outputs, rank)

`split_weights` tells the trained from the frozen, under names that a model without adapters has; what is made of them
is checkpoint/adapter.py's business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_apollo.machine.packages import extra_command
from lightning_apollo.models.config import LoraConfig

PREFIXES = {
    "vision": "vision_encoder.",
    "connector": "connector.",
    "llm": "llm.",
}  # of a component's names in the model
DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # what our names of the two matrices end with


@dataclass(frozen=True)
class AdapterSizes:
    """Of one component."""

    num_parameters: int  # of all its adapters
    num_linear: int  # weights of the linear layers inside its layers, with and without adapters


@dataclass(frozen=True)
class SplitWeights:
    """The weights of a model with adapters, under names that a model without them has."""

    frozen: dict[str, Tensor]  # those in 4 bit as what they stand for
    trained: dict[
        str, Tensor
    ]  # X.lora_A.weight and X.lora_B.weight of a linear layer X, and components that train whole
    quantized: list[str]  # names of `frozen` that were held in 4 bit


def add_adapters(components: Mapping[str, nn.Module], lora: Mapping[str, LoraConfig]) -> None:
    """Freeze each component that `lora` names and give it trained adapters, in place; others stay as they are.

    A is drawn from torch's own generator, so that ranks which seed it alike begin alike. Adapters are float32, or
    float64 in a model of that. ValueError for a module that is not there.
    """
    for name, config in lora.items():
        targets = target_modules(components[name], config, name)
        components[name].requires_grad_(False)
        if config.quantize == "nf4":
            _quantize(components[name])
        _inject(components[name], config, targets)


def target_modules(component: nn.Module, config: LoraConfig, name: str) -> list[str]:
    """Dotted names, inside the component, of the linear layers that get adapters."""
    linears = layer_linears(component)
    known = {path.rpartition(".")[2] for path in linears}
    unknown = sorted(set(config.modules) - known)
    if unknown:
        raise ValueError(
            f"lora.{name}.modules: no linear layer is called {unknown[0]}: name {', '.join(sorted(known))}"
        )
    return [path for path in linears if not config.modules or path.rpartition(".")[2] in config.modules]


def layer_linears(component: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the component's transformer layers, by dotted name: not its embeddings and its head."""
    layers = [path for path, module in component.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        path: module
        for path, module in component.named_modules()
        if isinstance(module, nn.Linear) and any(path.startswith(f"{layer}.") for layer in layers)
    }


def adapter_sizes(components: Mapping[str, nn.Module], lora: Mapping[str, LoraConfig]) -> dict[str, AdapterSizes]:
    """Parameters that adapters would add to components that have none yet, which may lie on the meta device."""
    sizes = {}
    for name, config in lora.items():
        linears = layer_linears(components[name])
        targets = [linears[path] for path in target_modules(components[name], config, name)]
        sizes[name] = AdapterSizes(
            num_parameters=sum(config.rank * (linear.in_features + linear.out_features) for linear in targets),
            num_linear=sum(linear.weight.numel() for linear in linears.values()),
        )
    return sizes


def packed_names(names: Collection[str]) -> list[str]:
    """Those of a state dict's names that stand for a weight in 4 bit; what begins with one and a dot tells how to read it."""
    return [name for name in names if f"{name}.absmax" in names]


def split_weights(
    state: Mapping[str, Tensor], trains: Mapping[str, float], lora: Mapping[str, LoraConfig]
) -> SplitWeights:
    """Split the state dict of a model with adapters, on the CPU, into what trained and what did not."""
    whole = tuple(PREFIXES[name] for name in trains if name not in lora)
    frozen: dict[str, Tensor] = {}
    trained: dict[str, Tensor] = {}
    packed = {name: _plain(name) for name in packed_names(state)}
    for name, tensor in state.items():
        plain = _plain(name)
        if plain.startswith(whole) or plain.endswith((DOWN, UP)):
            trained[plain] = tensor
        elif name in packed:
            frozen[plain] = _dequantized(name, state)
        elif name.rpartition(".weight.")[0] + ".weight" not in packed:
            frozen[plain] = tensor
    return SplitWeights(frozen, trained, list(packed.values()))


def merge_adapter(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale · B A in the dtype of W: computed in float32, or in float64 where a matrix is that.

    weight: (outputs, inputs); down: A (rank, inputs); up: B (outputs, rank).
    """
    wide = torch.promote_types(torch.promote_types(weight.dtype, down.dtype), torch.float32)
    return torch.addmm(weight.to(wide), up.to(wide), down.to(wide), alpha=scale).to(weight.dtype)


def through_nf4(weight: Tensor) -> Tensor:
    """Value of a weight after it was held in 4 bit: (outputs, inputs) in its own dtype."""
    packed = _packed(weight)
    return _bitsandbytes().functional.dequantize_4bit(packed.data, packed.quant_state)


def _plain(name: str) -> str:
    """The name of a tensor without what peft put into it."""
    return name.replace(".base_layer.", ".").replace(".default.", ".")


def _inject(component: nn.Module, config: LoraConfig, targets: list[str]) -> None:
    import peft  # takes seconds: not for those who train without

    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    peft.inject_adapter_in_model(settings, component)
    for parameter in component.parameters():
        if parameter.requires_grad:  # steps of a small rate are lost in bfloat16
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _quantize(component: nn.Module) -> None:
    """Put layers that hold 4-bit weights in the place of the linear layers of the component's layers."""
    for path, linear in layer_linears(component).items():
        with torch.device("meta"):
            layer = _bitsandbytes().nn.LinearNF4(linear.in_features, linear.out_features, bias=linear.bias is not None)
        layer.weight = _packed(linear.weight.data)
        layer.support_avx512bf16_for_cpu = False  # else it packs anew where a CPU only asks, and stays so in training
        if linear.bias is not None:
            layer.bias = linear.bias
        component.set_submodule(path, layer)


def _packed(weight: Tensor) -> Any:
    """The weight in 4 bit: numbers of the NF4 code in blocks of 64, whose largest absolute values are in 8 bit."""
    return _bitsandbytes().nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to(weight.device)


def _dequantized(name: str, state: Mapping[str, Tensor]) -> Tensor:
    functional = _bitsandbytes().functional
    facts = {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
    return functional.dequantize_4bit(state[name], functional.QuantState.from_dict(facts, device=state[name].device))


def _bitsandbytes() -> Any:
    """The package of the extra `qlora`."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(f"quantize: nf4 needs bitsandbytes: {extra_command('qlora')}") from error
    return bitsandbytes
