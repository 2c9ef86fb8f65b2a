"""2D-RoPE item by item, in the three elementwise passes of the released code: x · cos + rotate_half(x) · sin."""

import torch
from torch import Tensor


def loop(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, patches_per_item: list[int]) -> tuple[Tensor, Tensor]:
    """Returns q and k (N, H, D) turned by the half tables (N, D/2), each item on its own, then concatenated."""
    turned_q, turned_k = [], []
    start = 0
    for num_patches in patches_per_item:
        rows = slice(start, start + num_patches)
        full_cos = torch.cat([cos[rows], cos[rows]], dim=-1)[:, None]  # (n, 1, D)
        full_sin = torch.cat([sin[rows], sin[rows]], dim=-1)[:, None]
        for x, out in ((q[rows], turned_q), (k[rows], turned_k)):
            out.append((x.float() * full_cos + _rotate_half(x.float()) * full_sin).to(x.dtype))
        start += num_patches
    return torch.cat(turned_q), torch.cat(turned_k)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
