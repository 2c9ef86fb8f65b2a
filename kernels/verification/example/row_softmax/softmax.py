"""Softmax of each row of a matrix: a Triton kernel and its launcher."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _softmax_kernel(x, y_out, num_rows, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """A program takes BLOCK_ROWS whole rows. BLOCK_COLUMNS is the next power of two from COLUMNS."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    places = rows[:, None] * COLUMNS + columns[None, :]
    mask = (rows < num_rows)[:, None] & (columns < COLUMNS)[None, :]
    values = tl.load(x + places, mask=mask, other=float("-inf")).to(tl.float32)
    values = tl.where((rows < num_rows)[:, None], values, 0.0)
    weights = tl.exp(values - tl.max(values, axis=1, keep_dims=True))
    shares = weights / tl.sum(weights, axis=1, keep_dims=True)
    tl.store(y_out + places, shares.to(y_out.dtype.element_ty), mask=mask)


def softmax(x: Tensor, block_rows: int = 4) -> Tensor:
    """(N, C), contiguous, of any float dtype -> the same; sums are taken in float32."""
    num_rows, columns = x.shape
    y = torch.empty_like(x)
    grid = (triton.cdiv(num_rows, block_rows),)
    _softmax_kernel[grid](x, y, num_rows, columns, block_rows, triton.next_power_of_2(columns))
    return y
