"""Weights tensor by tensor: published checkpoints as they lie on a disk or the hub, and safetensors files.

No more than the tensor at hand is in memory, so that a checkpoint which fills a machine once passes through it. Pickles
are read as tensors alone: one that holds anything else is refused.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import MappingProxyType

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_apollo.files import write_atomically
from lightning_apollo.structures import WeightsError

# The format's code of each dtype, in the order in which the safetensors library lays out a file: from the last to the first
DTYPE_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}
_HUB_FILES = ["*.safetensors", "*.pt", "*.pth", "*.bin", "*.json"]
ADAPTER = "adapter.safetensors"  # lies beside the weights of a stage with adapters, and is none (adapter.py)
# What lies in a folder, the first kind that is there: safe files, then those that transformers wrote before, then others
_PATTERNS = (("*.safetensors",), ("pytorch_model*.bin",), ("*.bin", "*.pt", "*.pth"))
_INDEXES = ("*.safetensors.index.json", "pytorch_model*.bin.index.json")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that stays in its file until it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def stored(tensor: Tensor) -> StoredTensor:
    """A tensor in memory, to go the way of those in files."""
    return StoredTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def open_weights(name_or_path: str) -> dict[str, StoredTensor]:
    """Every tensor of a file, a folder or a hub name, by name; none of them is read.

    WeightsError for a name that is nowhere, a shard that the index names and the folder lacks, a file that cannot be
    read, a pickle that is refused, and one name in two files.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(local_path(name_or_path)):
        for name, tensor in _opened(file):
            if name in tensors:
                raise WeightsError(f"{file}: {name} is in another file of the folder too: name one file, or remove one")
            tensors[name] = tensor
    return tensors


def write_stored(
    tensors: Mapping[str, StoredTensor], path: Path, metadata: Mapping[str, str] = MappingProxyType({"format": "pt"})
) -> None:
    """Write a safetensors file, tensor by tensor, all or nothing, and down to the disk.

    Byte for byte that of the library's `save_file`, which would want all tensors at once. OSError where there is no room.
    """
    codes = {name: _code(name, tensor.dtype) for name, tensor in tensors.items()}
    ranks = list(DTYPE_CODES.values())
    names = sorted(tensors, key=lambda name: (-ranks.index(codes[name]), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].num_bytes
        header[name] = {"dtype": codes[name], "shape": tensors[name].shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(tensors[name].read().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())  # what a file system notices only then is an error here, not a lost file


def local_path(name_or_path: str) -> Path:
    """The path itself where something is there, else the folder in the cache that holds the files of that hub name."""
    path = Path(name_or_path)
    if path.exists():
        return path
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=_HUB_FILES))
    except (OSError, HFValidationError) as error:  # what the hub's own errors are, and no file of that name
        said = str(error).splitlines()[0]
        raise WeightsError(f"{name_or_path}: no such file or folder, and the hub says: {said}") from error


def weight_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder that hold its weights."""
    if path.is_file():
        return [path]
    for patterns in _PATTERNS:
        found = sorted(file for pattern in patterns for file in path.glob(pattern) if file.name != ADAPTER)
        if found:
            _check_shards(path, found)
            return found
    return []


def _check_shards(folder: Path, found: Iterable[Path]) -> None:
    """Raise WeightsError where an index names a file of the kind found that is not there."""
    suffix = next(iter(found)).suffix
    for index in (file for pattern in _INDEXES for file in sorted(folder.glob(pattern))):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        lost = [shard for shard in shards if shard.endswith(suffix) and not (folder / shard).is_file()]
        if lost:
            raise WeightsError(f"{folder}: {', '.join(lost)} is missing, which {index.name} names: fetch it again")


def _opened(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    if file.suffix != ".safetensors":
        yield from _opened_pickle(file)
        return
    try:
        opened = safe_open(file, framework="pt", backend="pread")  # mapped into memory, a file would stay there
        for name in opened.keys():  # noqa: SIM118  safe_open is no mapping
            part = opened.get_slice(name)
            code = part.get_dtype()
            if code not in _DTYPES:
                raise WeightsError(f"{file}: {name} has the dtype {code}: convert it to one of {', '.join(_DTYPES)}")
            yield name, StoredTensor(_DTYPES[code], tuple(part.get_shape()), partial(opened.get_tensor, name))
    except SafetensorError as error:
        raise WeightsError(f"{file}: not a whole safetensors file ({error}): fetch it again") from error


def _opened_pickle(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of torch's own format; what else lies beside them (counts of steps, names) is no weight."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        wants = f"it calls {name[1]}" if name else "it holds more than tensors"
        raise WeightsError(
            f"{file}: refused: {wants}, and reading such a pickle can run code: get these weights as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{file}: no checkpoint that torch can read: {str(error).splitlines()[0]}") from error
    for wrapper in ("module", "model", "state_dict"):  # what training code wraps weights in
        state = state.get(wrapper, state)
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            yield name, stored(tensor)


def _code(name: str, dtype: torch.dtype) -> str:
    if dtype not in DTYPE_CODES:
        raise WeightsError(f"{name} has the dtype {dtype}, which is not written: convert it first")
    return DTYPE_CODES[dtype]
