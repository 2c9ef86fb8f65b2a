"""Batches of every awkward shape, and runs of an op under the sanitizer."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import CustomOpDef
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from apollo_kernels.launch import triton_on_cpu
from apollo_kernels.layout import Layout
from verification.gpu_launch import launches_on_gpu
from verification.sanitizer import Sanitizer, is_interpreting

Result = TypeVar("Result")

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
PATCH = 2  # pixels: small, so that many shapes run; each op also has a test at the model's 14

# Frames, rows and columns in merged tokens, merge size. An item of no frames is an empty segment.
item_shapes = st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 3]))
batch_shapes = st.lists(item_shapes, min_size=0, max_size=4)

Shape = tuple[int, int, int, int]

AWKWARD: dict[str, list[Shape]] = {
    "nothing": [],
    "one patch": [(1, 1, 1, 1)],
    "an image of one row": [(1, 1, 9, 1)],
    "an image of one column": [(1, 9, 1, 1)],
    "an empty item between two": [(2, 1, 2, 2), (0, 3, 3, 1), (3, 2, 1, 1)],
    "odd sizes, mixed merges": [(3, 3, 5, 1), (1, 5, 3, 3), (2, 1, 7, 2)],
    "hundreds of items": [(1 + i % 2, 1, 1, 1) for i in range(300)],
}


def make_layout(shapes: list[Shape], patch_size: int = PATCH) -> Layout:
    sizes = [(f, r * m * patch_size, c * m * patch_size) for f, r, c, m in shapes]
    merge_sizes = torch.tensor([m for *_, m in shapes], dtype=torch.int64)
    return Layout.of(torch.tensor(sizes, dtype=torch.int64).reshape(-1, 3), merge_sizes, patch_size)


def make_clips(shapes: list[Shape], patch_size: int = PATCH, seed: int = 0) -> list[Tensor]:
    """Each item as (F, 3, H, W) uint8, random."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (f, 3, r * m * patch_size, c * m * patch_size), generator=generator).to(torch.uint8)
        for f, r, c, m in shapes
    ]


def flatten(clips: list[Tensor]) -> Tensor:
    """(B,) uint8, as the ops take pixels."""
    return torch.cat([clip.flatten() for clip in clips]) if clips else torch.empty(0, dtype=torch.uint8)


@contextmanager
def through_triton(tiles: str = "interpreter") -> Iterator[None]:
    """CPU tensors take the Triton kernels: in the interpreter with these tiles, or compiled where there is a GPU."""
    if is_interpreting():
        with triton_on_cpu(tiles):
            yield
    else:
        with triton_on_cpu("hip" if torch.version.hip else "cuda"), launches_on_gpu():
            yield


def watched(run: Callable[[], Result], tiles: str = "interpreter", orders: tuple[int, ...] = (1, 2)) -> Result:
    """Results of the op's Triton kernels: two runs under the sanitizer, their programs in two shuffled orders, which must
    agree.
    """
    results = []
    for seed in orders:
        watch = Sanitizer(shuffle=seed) if is_interpreting() else nullcontext()
        with through_triton(tiles), watch:
            results.append(run())
        if isinstance(watch, Sanitizer) and not watch.kernels:
            sizes = [leaf.numel() for leaf in tree_leaves(results[-1]) if isinstance(leaf, Tensor)]
            assert max(sizes) <= 1, f"no kernel was launched for results of {sizes} elements"
    assert_close(results[0], results[-1], rtol=0, atol=0, equal_nan=True)
    return results[0]


def opcheck(op: CustomOpDef, arguments: tuple[object, ...]) -> None:
    """torch's own checks of a custom op (schema, fake, autograd, compiled), through the definition and through Triton."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The .grad attribute of a Tensor that is not a leaf"
        )  # opcheck reads it itself
        torch.library.opcheck(op, arguments)
        with through_triton():
            torch.library.opcheck(op, arguments)
