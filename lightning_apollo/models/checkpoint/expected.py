"""Expected names and shapes of a checkpoint, from a recipe's model or from the checkpoint's own sizes.

Models are built on the meta device, so that nothing is allocated. D width of the encoder · E width of the LLM
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_apollo.models.checkpoint.files import StoredTensor
from lightning_apollo.models.checkpoint.load import tied_names
from lightning_apollo.models.config import ConnectorConfig, ModelConfig, ReducerConfig, VisionEncoderConfig
from lightning_apollo.models.connector import MLPConnector
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.structures import WeightsError

Shape = tuple[int, ...]

_MAX_SHOWN = 5  # names of one kind in an error
# A name of the first layer -> the architecture of transformers that has it; the first one that is there
_ARCHITECTURES = {
    "self_attn.q_norm.weight": "qwen3",
    "self_attn.q_proj.bias": "qwen2",
    "self_attn.q_proj.weight": "llama",
}


def shapes_of_recipe(config: ModelConfig, parts: Iterable[str]) -> dict[str, Shape]:
    """Our names and their shapes, for the components named, of the model of a recipe; tied tensors once."""
    with torch.device("meta"):
        model = build_model(config, ReducerConfig())
    tied = tied_names(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name.split(".", 1)[0] in set(parts)}


def shapes_of_itself(shapes: Mapping[str, Shape], parts: Iterable[str]) -> dict[str, Shape]:
    """The same for the model whose sizes are those of a checkpoint's first layer and of its tables.

    `shapes` are those of the checkpoint under our names. A layer is as the first one, and none is left out between the
    first and the last. WeightsError where a tensor that tells a size is not there.
    """
    expected: dict[str, Shape] = {}
    for part in sorted(parts):
        own = {name.removeprefix(f"{part}."): s for name, s in shapes.items() if name.startswith(f"{part}.")}
        with torch.device("meta"):
            module = _BUILDERS[part](_Sizes(own, part))
        tied = tied_names(module)
        state = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
        expected |= {f"{part}.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    return expected


def check_shapes(
    tensors: Mapping[str, StoredTensor], expected: Mapping[str, Shape], source: str, unknown: Iterable[str] = ()
) -> None:
    """Raise one WeightsError that names every tensor of a wrong shape, those missing, and those that nothing asks for.

    `unknown` are names of the source that have no counterpart among ours.
    """
    wrong = [
        f"{name} is {tensor.shape}, not {expected[name]}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name]
    ]
    missing = [name for name in expected if name not in tensors]
    extra = [*unknown, *(name for name in tensors if name not in expected)]
    kinds = (("wrong shape", wrong), ("missing", missing), ("unknown", extra))
    said = [f"{kind}: {_shown(names)}" for kind, names in kinds if names]
    if said:
        raise WeightsError(f"{source}: {'; '.join(said)}")


def _shown(names: list[str]) -> str:
    rest = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + rest


class _Sizes:
    """The shapes of one component, by name; what is not there is a WeightsError."""

    def __init__(self, shapes: Mapping[str, Shape], part: str) -> None:
        self.shapes = shapes
        self.part = part

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> Shape:
        if name not in self.shapes:
            raise WeightsError(f"missing {self.part}.{name}, without which the sizes of the model are unknown")
        return self.shapes[name]

    def num_layers(self, prefix: str) -> int:
        numbers = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in self.shapes]
        return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def _vision_encoder(sizes: _Sizes) -> nn.Module:
    width, _, patch_size, _ = sizes["embeddings.patch_embedding.weight"]  # (D, 3, p, p)
    hidden = sizes["encoder.layers.0.mlp.fc1.weight"][0]
    layers = sizes.num_layers("encoder.layers.")
    return VisionEncoder(VisionEncoderConfig(width, layers, 1, hidden, patch_size))  # no shape depends on the heads


def _connector(sizes: _Sizes) -> nn.Module:
    llm_width, width = sizes["readout.0.weight"]  # (E, D)
    return MLPConnector(ConnectorConfig(), width, llm_width)


def _llm(sizes: _Sizes) -> nn.Module:
    first = "model.layers.0."
    architecture = next((kind for name, kind in _ARCHITECTURES.items() if first + name in sizes), "llama")
    queries, keys = sizes[f"{first}self_attn.q_proj.weight"][0], sizes[f"{first}self_attn.k_proj.weight"][0]
    name = f"{first}self_attn.q_norm.weight"
    head_dim = sizes[name][0] if name in sizes else math.gcd(queries, keys)  # else no shape depends on it
    vocab_size, width = sizes["model.embed_tokens.weight"]
    numbers: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": sizes[f"{first}mlp.gate_proj.weight"][0],
        "num_hidden_layers": sizes.num_layers("model.layers."),
        "num_attention_heads": queries // head_dim,
        "num_key_value_heads": keys // head_dim,
        "head_dim": head_dim,
        "tie_word_embeddings": "lm_head.weight" not in sizes,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **numbers))


_BUILDERS: dict[str, Callable[[_Sizes], nn.Module]] = {
    "vision_encoder": _vision_encoder,
    "connector": _connector,
    "llm": _llm,
}
