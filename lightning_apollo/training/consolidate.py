"""The weights of a training checkpoint as one file."""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lightning_apollo.models.checkpoints import write_weights
from lightning_apollo.structures import WeightsError

TIED = "tied_weights"  # what a Stage writes into its checkpoints: names that stand for the same tensor as another one
MASTERS = "optimized_names"  # likewise: names of the parameters with master weights, as the optimizer numbers them
_MODEL = "model."  # where a Stage has its model
_FACTS = "meta.pt"  # what Lightning adds to a folder of slices: everything that is not a tensor of model or optimizer


def consolidate(checkpoint: Path, output: Path) -> int:
    """Writes the model's weights to a safetensors file, as `save_weights` does; returns how many tensors they are.

    `checkpoint` is what a Trainer wrote: a folder of the slices of all ranks, or one file. The optimizer's state is not
    read. Needs the memory of the weights once, and no process group. A folder's index is a pickle: open no stranger's.
    """
    if checkpoint.is_dir():
        state, tied = _read_slices(checkpoint)
    elif checkpoint.is_file():
        state, tied = _read_file(checkpoint)
    else:
        raise WeightsError(f"{checkpoint}: no such checkpoint")
    weights = {name: tensor for name, tensor in state.items() if name not in tied}
    if not weights:
        raise WeightsError(f"{checkpoint}: holds no weights of a stage's model")
    if any(".lora_A." in name for name in weights):
        raise WeightsError(f"{checkpoint}: has adapters: end the stage with `fit --resume`, which merges them")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(weights, output)
    return len(weights)


def _read_slices(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The model's tensors by our names, and the names among them that are tied to others."""
    if not (folder / _FACTS).is_file():
        raise WeightsError(f"{folder}: no {_FACTS} in it: no checkpoint, or one that was not finished")
    reader = FileSystemReader(folder)
    prefix = f"state_dict.{_MODEL}"
    stored = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in stored.items()
        if name.startswith(prefix) and isinstance(facts, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is meant
        load(state, storage_reader=reader, no_dist=True)  # in place
    rest = torch.load(folder / _FACTS, weights_only=True)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, rest.get(TIED, [])


def _read_file(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The same of a checkpoint in one file."""
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = {
        name.removeprefix(_MODEL): tensor
        for name, tensor in stored.get("state_dict", {}).items()
        if name.startswith(_MODEL)
    }
    return state, stored.get(TIED, [])
