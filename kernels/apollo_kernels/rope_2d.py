"""Rotary position embedding over rows and columns (axial, split-half layout) for a packed encoder.

N patches · H heads · D channels of a head, a multiple of 4
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from apollo_kernels.launch import Tiles, choose, require_contiguous, runs_triton

TILES: Tiles = {  # rows: heads of patches that one program turns
    "cuda": {"BLOCK_ROWS": 32, "num_warps": 4},
    "hip": {"BLOCK_ROWS": 64, "num_warps": 4},
    "interpreter": {"BLOCK_ROWS": 4096, "num_warps": 4},
}


CHUNK = 256  # patches that the definition turns at a time, so that what lies between two passes stays in the cache


def rope_2d_tables(positions: Tensor, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (N, D/2) float32: the first D/4 columns turn with the row, the others with the column.

    positions: (N, 2) row and column. Frequencies are computed in float32 and kept there, whatever the model's dtype:
    in bfloat16 an angle at row 100 is off by 0.26 rad.
    Source: VideoLLaMA 3, modeling_videollama3_encoder.py:155-190 (θ = 10,000 over arange(0, D/2, 2) / (D/2)).
    """
    axis_dim = head_dim // 2
    exponents = torch.arange(0, axis_dim, 2, dtype=torch.float32, device=positions.device) / axis_dim  # (D/4,)
    angles = positions[:, :, None].float() / theta**exponents  # (N, 2, D/4)
    angles = angles.flatten(1)  # (N, D/2)
    return angles.cos(), angles.sin()


def rope_2d(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return q and k (N, H, D) rotated by the tables of `rope_2d_tables`, computed in the tables' dtype, in their own dtype.

    Channel i and channel i + D/2 are the two coordinates of one rotation ("split half", not interleaved). The gradient is the
    rotation back; the tables get none.
    Source: VideoLLaMA 3, modeling_videollama3_encoder.py:400-426.
    """
    require_contiguous(q=q, k=k, cos=cos, sin=sin)
    table = (q.shape[0], q.shape[2] // 2)
    if q.shape != k.shape or q.dtype != k.dtype or cos.shape != table or sin.shape != table or q.shape[2] % 4:
        raise ValueError(
            f"q {tuple(q.shape)} {q.dtype} and k {tuple(k.shape)} {k.dtype} must agree, D be a multiple of 4 "
            f"and the tables (N, D/2), not {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    return _rotate(q, k, cos, sin, False)


def rotate_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Reference of the kernel in plain PyTorch; `inverse` turns back."""
    return _turn(q, cos, sin, inverse), _turn(k, cos, sin, inverse)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    sign = -1 if inverse else 1
    x_out = torch.empty_like(x)
    for rows, out, cosine, sine in zip(*(t.split(CHUNK) for t in (x, x_out, cos[:, None], sin[:, None])), strict=True):
        a, b = rows.to(cos.dtype).chunk(2, dim=-1)  # (n, H, D/2) each
        turned = torch.empty_like(rows, dtype=cos.dtype)
        turned_a, turned_b = turned.chunk(2, dim=-1)
        torch.mul(a, cosine, out=turned_a).addcmul_(b, sine, value=-sign)
        torch.mul(b, cosine, out=turned_b).addcmul_(a, sine, value=sign)
        out.copy_(turned)
    return x_out


@triton.jit
def _rotate_kernel(
    q, k, cos, sin, q_out, k_out, num_rows,
    HEADS: tl.constexpr, HALF: tl.constexpr, INVERSE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    """a' = a·cos − b·sin, b' = b·cos + a·sin for the two halves a, b of every head (sin negated where INVERSE). One row is one head
    of one patch; q and k share the loads of cos and sin. Source: VideoLLaMA 3 §2.1."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # (R,) of N·H
    columns = tl.arange(0, BLOCK_HALF)
    mask = (rows < num_rows)[:, None] & (columns < HALF)[None, :]  # (R, D/2)
    angle = (rows // HEADS)[:, None] * HALF + columns[None, :]
    cosine = tl.load(cos + angle, mask=mask, other=0.0)
    sine = tl.load(sin + angle, mask=mask, other=0.0)
    if INVERSE:
        sine = -sine
    first = rows[:, None] * (2 * HALF) + columns[None, :]
    second = first + HALF
    a = tl.load(q + first, mask=mask, other=0.0).to(cosine.dtype)
    b = tl.load(q + second, mask=mask, other=0.0).to(cosine.dtype)
    tl.store(q_out + first, (a * cosine - b * sine).to(q_out.dtype.element_ty), mask=mask)
    tl.store(q_out + second, (b * cosine + a * sine).to(q_out.dtype.element_ty), mask=mask)
    a = tl.load(k + first, mask=mask, other=0.0).to(cosine.dtype)
    b = tl.load(k + second, mask=mask, other=0.0).to(cosine.dtype)
    tl.store(k_out + first, (a * cosine - b * sine).to(k_out.dtype.element_ty), mask=mask)
    tl.store(k_out + second, (b * cosine + a * sine).to(k_out.dtype.element_ty), mask=mask)


def _launch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    num_patches, heads, head_dim = q.shape
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    num_rows = num_patches * heads
    tiles = choose(TILES)
    half = head_dim // 2
    if num_rows:
        _rotate_kernel[(triton.cdiv(num_rows, tiles["BLOCK_ROWS"]),)](
            q, k, cos, sin, q_out, k_out, num_rows,
            HEADS=heads, HALF=half, INVERSE=inverse, BLOCK_HALF=triton.next_power_of_2(half), **tiles,
        )  # fmt: skip
    return q_out, k_out


@torch.library.custom_op("apollo_kernels::rope_2d", mutates_args=())
def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    rotate = _launch if runs_triton(q) else rotate_reference
    return rotate(q, k, cos, sin, inverse)


@_rotate.register_fake
def _(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k)


def _save_tables(ctx, inputs, output) -> None:
    *_, cos, sin, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    """The rotation is orthogonal: its gradient is the rotation back."""
    cos, sin = ctx.saved_tensors
    return *_rotate(grad_q.contiguous(), grad_k.contiguous(), cos, sin, not ctx.inverse), None, None, None


_rotate.register_autograd(_backward, setup_context=_save_tables)
