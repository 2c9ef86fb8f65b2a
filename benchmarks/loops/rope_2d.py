"""2D-RoPE item by item, in the three elementwise passes of the released code: x · cos + rotate_half(x) · sin."""

import torch
from torch import Tensor


def loop(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, patches_per_item: list[int]) -> tuple[Tensor, Tensor]:
    """Return q and k (N, H, D) turned by the half tables (N, D/2), each item on its own, then concatenated."""
    turned_q, turned_k = [], []
    items = (tensor.split(patches_per_item) for tensor in (q, k, cos, sin))
    for item_q, item_k, item_cos, item_sin in zip(*items, strict=True):
        full_cos = torch.cat([item_cos, item_cos], dim=-1)[:, None]  # (n, 1, D)
        full_sin = torch.cat([item_sin, item_sin], dim=-1)[:, None]
        for x, turned in ((item_q, turned_q), (item_k, turned_k)):
            turned.append((x.float() * full_cos + _rotate_half(x.float()) * full_sin).to(x.dtype))
    return torch.cat(turned_q), torch.cat(turned_k)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
