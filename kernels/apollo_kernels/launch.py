"""Launch rules of Triton kernels: device, tile sizes and refused arguments."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

_cpu_tiles: str | None = None  # whose tiles CPU tensors use in Triton kernels; None: they take the definition

Tiles = Mapping[str, Mapping[str, int]]  # backend ("cuda", "hip", "interpreter") -> sizes of tiles and number of warps


@contextmanager
def triton_on_cpu(tiles: str = "interpreter") -> Iterator[None]:
    """CPU tensors go through the Triton kernels too, with the tiles of this backend.

    For verification: under TRITON_INTERPRET=1 the kernels then run in Triton's interpreter, for which `interpreter` has few large
    programs; with a driver that only compiles, `cuda` and `hip` give the code that a GPU would run.
    """
    global _cpu_tiles
    before, _cpu_tiles = _cpu_tiles, tiles
    try:
        yield
    finally:
        _cpu_tiles = before


def runs_triton(tensor: Tensor) -> bool:
    """True for tensors on which ops launch their Triton kernels: always on a GPU, on a CPU only inside `triton_on_cpu`."""
    return tensor.is_cuda or _cpu_tiles is not None


def choose(tiles: Tiles) -> Mapping[str, int]:
    """The line of an op's tile table for the backend that runs. Measured or chosen by hand, never tuned while running."""
    if _cpu_tiles is not None:
        return tiles[_cpu_tiles]
    return tiles["hip" if torch.version.hip else "cuda"]


def require_contiguous(**tensors: Tensor | None) -> None:
    """Raise ValueError for a tensor whose elements do not follow each other in memory: kernels address them flat."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} {tuple(tensor.shape)} is not contiguous: call .contiguous() where it is made")
