"""Kernels whose code is known (two of them bad), to check `codegen` and its budgets."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from verification.codegen import Case


@triton.jit
def _copy_kernel(x, x_out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n * BLOCK
    tl.store(x_out + offsets, tl.load(x + offsets, mask=mask, other=0.0).to(x_out.dtype.element_ty), mask=mask)


@triton.jit
def _add_up_kernel(x, total_out, n, BLOCK: tl.constexpr):
    """The pointer walks along x: what it is computed from runs through the loop."""
    offsets = tl.arange(0, BLOCK)
    x += offsets
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(n):
        total += tl.load(x)
        x += BLOCK
    tl.store(total_out + offsets, total)


@triton.jit
def _spilling_kernel(x, x_out, BLOCK: tl.constexpr):
    """Every thread of its one warp holds more values than there are registers."""
    offsets = tl.arange(0, BLOCK)
    values = tl.load(x + offsets)
    tl.store(x_out + offsets, values - tl.max(values))


def _copy(x: Tensor, n: int) -> None:
    _copy_kernel[(n,)](x, torch.empty(n * 1024), n, BLOCK=1024, num_warps=4)


def _copy_floats(n: int, dtype: torch.dtype) -> None:
    _copy(torch.empty(n * 1024, dtype=dtype), n)


def _copy_bytes(n: int, dtype: torch.dtype) -> None:
    _copy(torch.empty(n * 1024, dtype=torch.uint8), n)


def _copy_misaligned(n: int, dtype: torch.dtype) -> None:
    """The same call, but x starts four bytes after a multiple of 16."""
    _copy(torch.empty(n * 1024 + 1, dtype=dtype)[1:], n)


def _add_up(n: int, dtype: torch.dtype) -> None:
    _add_up_kernel[(1,)](torch.empty(n * 1024, dtype=dtype), torch.empty(1024), n, BLOCK=1024, num_warps=4)


def _spill(n: int, dtype: torch.dtype) -> None:
    warp_size = triton.runtime.driver.active.get_current_target().warp_size
    x = torch.empty(warp_size * (256 if warp_size == 32 else 512), dtype=dtype)  # as many a thread as it has registers
    _spilling_kernel[(1,)](x, torch.empty_like(x), BLOCK=len(x), num_warps=1)


FLOAT = (torch.float32,)
CASES = {
    "floats": Case(_copy_floats, FLOAT),
    "bytes": Case(_copy_bytes, FLOAT),
    "misaligned": Case(_copy_misaligned, FLOAT),
    "add up": Case(_add_up, FLOAT),
    "spilling": Case(_spill, FLOAT),
}
