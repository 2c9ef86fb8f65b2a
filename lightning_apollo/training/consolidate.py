"""The weights of a training checkpoint as one file."""

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lightning_apollo.models.checkpoint.load import write_weights
from lightning_apollo.structures import WeightsError
from lightning_apollo.training.master_weights import MASTER

TIED = "tied_weights"  # what a Stage writes into its checkpoints: names that stand for the same tensor as another one
OPTIMIZED = "optimized_names"  # likewise: where weights have masters, names as the optimizer numbers its parameters
_MODEL = "model."  # where a Stage has its model
_FACTS = "meta.pt"  # what Lightning adds to a folder of slices: everything that is not a tensor of model or optimizer


def consolidate(checkpoint: Path, output: Path) -> int:
    """Write the model's weights to a safetensors file, as `save_weights` does; return how many tensors they are.

    `checkpoint` is what a Trainer wrote: a folder of the slices of all ranks, or one file. Of the optimizer's state the
    master weights alone are read, which stand for the bfloat16 ones. Needs the memory of the weights once, and no process
    group. A folder's index is a pickle: open no stranger's.
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
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: facts for name, facts in stored.items() if isinstance(facts, TensorStorageMetadata)}
    sources = {  # the later ones in the place of the former
        match[1]: name
        for pattern in (rf"state_dict\.{_MODEL}(.+)", rf"optimizer_0\.state\.{_MODEL}(.+)\.{MASTER}")
        for name in tensors
        if (match := re.fullmatch(pattern, name))
    }
    state = {name: torch.empty(tensors[name].size, dtype=tensors[name].properties.dtype) for name in sources.values()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is meant
        load(state, storage_reader=reader, no_dist=True)  # in place
    rest = torch.load(folder / _FACTS, weights_only=True)
    return {name: state[source] for name, source in sources.items()}, rest.get(TIED, [])


def _read_file(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The same of a checkpoint in one file."""
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = {
        name.removeprefix(_MODEL): tensor
        for name, tensor in stored.get("state_dict", {}).items()
        if name.startswith(_MODEL)
    }
    for number, name in enumerate(stored.get(OPTIMIZED, [])):
        state[name] = stored["optimizer_states"][0]["state"].get(number, {}).get(MASTER, state[name])
    return state, stored.get(TIED, [])
