"""adapter.safetensors: all that a stage with adapters trained, and what it was trained on.

Its tensors are A and B of every adapted linear layer and the components that trained whole. Its metadata say how to merge them,
and have a hash of the frozen weights, so that they are put on no others. Whether a stage merges at its end or a user does
later, the merged file is made here, tensor by tensor: the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_apollo.models.checkpoint.files import ADAPTER, StoredTensor, open_weights, stored, write_stored
from lightning_apollo.models.config import LoraConfig
from lightning_apollo.models.lora import DOWN, PREFIXES, UP, merge_adapter, split_weights, through_nf4
from lightning_apollo.structures import WeightsError

_FORMAT = "lightning_apollo.adapter"  # the only key of the metadata: of several, the library writes any first


@dataclass(frozen=True)
class AdapterOrigin:
    """Stage and recipe that trained the adapters, and their settings."""

    recipe: str  # its name
    stage: str
    trains: dict[str, float]  # component -> peak rate, as in the stage
    lora: dict[str, LoraConfig]


@dataclass(frozen=True)
class AdapterFacts:
    """Metadata of an adapter file."""

    origin: AdapterOrigin
    dtype: str  # of the frozen weights while they were trained on: float32, bfloat16 or float64
    quantized: list[str]  # frozen weights that were held in 4 bit
    frozen_sha256: str  # `digest` of the frozen weights


def write_adapted(state: Mapping[str, Tensor], origin: AdapterOrigin, weights: Path, adapter: Path) -> None:
    """Write the weights of a model with adapters, merged, and the adapter file, each all or nothing.

    state: `whole_weights` of the model.
    """
    split = split_weights(state, origin.trains, origin.lora)
    frozen = {name: stored(tensor) for name, tensor in split.frozen.items()}
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in frozen.values() if tensor.dtype.is_floating_point}
    assert len(dtypes) == 1  # fit casts the whole model to one
    facts = AdapterFacts(origin, dtypes.pop(), split.quantized, digest(frozen))
    trained = {name: stored(tensor) for name, tensor in split.trained.items()}
    write_stored(trained, adapter, {_FORMAT: json.dumps(asdict(facts))})
    write_stored(merged(frozen, trained, origin.lora), weights)


def read_adapter(path: Path) -> tuple[AdapterFacts, dict[str, StoredTensor]]:
    """The facts and the tensors, which stay in the file; WeightsError for a file that `write_adapted` has not written."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_FORMAT)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: no file of an adapter: name the {ADAPTER} in the folder of a finished stage"
        ) from error
    if text is None:
        raise WeightsError(f"{path}: weights, but no adapter: name the {ADAPTER} in the folder of a finished stage")
    facts = json.loads(text)
    origin = facts.pop("origin")
    lora = {name: LoraConfig(**values) for name, values in origin.pop("lora").items()}
    return AdapterFacts(origin=AdapterOrigin(lora=lora, **origin), **facts), open_weights(str(path))


def merge_files(base: str, adapter: Path, output: Path) -> int:
    """Write the weights of a stage from those that it started from and its adapter file; return how many tensors they are.

    `base` is a file or folder of weights under our names. No more than a few tensors are in memory. WeightsError where
    the frozen ones are not those that the adapter was trained on.
    """
    facts, trained = read_adapter(adapter)
    origin, dtype = facts.origin, getattr(torch, facts.dtype)
    frozen = {
        name: _as_trained(tensor, dtype, name in facts.quantized)
        for name, tensor in open_weights(base).items()
        if name not in trained
    }
    if digest(frozen) != facts.frozen_sha256:
        raise WeightsError(
            f"{base}: not the weights that {adapter} was trained on: name those that stage {origin.stage} of "
            f"{origin.recipe} started from"
        )
    tensors = merged(frozen, trained, origin.lora)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_stored(tensors, output)
    return len(tensors)


def merged(
    frozen: Mapping[str, StoredTensor], trained: Mapping[str, StoredTensor], lora: Mapping[str, LoraConfig]
) -> dict[str, StoredTensor]:
    """The weights of a model without adapters that answers as the one with them; each is computed when it is read."""
    adapted = {name.removesuffix(UP) for name in trained if name.endswith(UP)}
    whole = {name: tensor for name, tensor in trained.items() if not name.endswith((DOWN, UP))}
    return {**_updated(frozen, trained, adapted, lora), **whole}


def digest(tensors: Mapping[str, StoredTensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, whatever the order; tensor by tensor."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].read().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _updated(
    frozen: Mapping[str, StoredTensor],
    trained: Mapping[str, StoredTensor],
    adapted: Collection[str],
    lora: Mapping[str, LoraConfig],
) -> dict[str, StoredTensor]:
    scales = {PREFIXES[name]: config.scale for name, config in lora.items()}
    updated = {}
    for name, tensor in frozen.items():
        layer = name.removesuffix(".weight")
        if layer == name or layer not in adapted:
            updated[name] = tensor
            continue
        scale = next(scale for prefix, scale in scales.items() if name.startswith(prefix))
        read = partial(_merged_tensor, tensor, trained[layer + DOWN], trained[layer + UP], scale)
        updated[name] = StoredTensor(tensor.dtype, tensor.shape, read)
    return updated


def _merged_tensor(weight: StoredTensor, down: StoredTensor, up: StoredTensor, scale: float) -> Tensor:
    return merge_adapter(weight.read(), down.read(), up.read(), scale)


def _as_trained(tensor: StoredTensor, dtype: torch.dtype, is_quantized: bool) -> StoredTensor:
    """A frozen tensor as the stage held it."""
    if not tensor.dtype.is_floating_point:
        return tensor

    def read() -> Tensor:
        weight = tensor.read().to(torch.float32).to(dtype)  # a stage loads into float32, whatever it casts to then
        return through_nf4(weight) if is_quantized else weight

    return StoredTensor(dtype, tensor.shape, read)
