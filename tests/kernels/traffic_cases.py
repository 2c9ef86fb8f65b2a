"""What `traffic.py` runs: every op at shapes of the 2B recipe, and why some arguments move more bytes than they must."""

from collections.abc import Callable

import torch

from apollo_kernels import pack_patches, rope_2d, rope_2d_tables
from apollo_kernels.layout import Layout

HEADS, HEAD_DIM = 16, 72  # of the vision encoder
FRAME = (10, 20)  # patches of 14 × 14 in a frame of 140 × 280 pixels


def _rope_2d() -> None:
    """One frame, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    cos, sin = rope_2d_tables(torch.cartesian_prod(*map(torch.arange, FRAME)), HEAD_DIM)
    q, k = (torch.randn(len(cos), HEADS, HEAD_DIM, generator=generator).bfloat16().requires_grad_() for _ in range(2))
    torch.autograd.backward(rope_2d(q, k, cos, sin), (torch.ones_like(q), torch.ones_like(k)))


def _pack_patches() -> None:
    """A video of three frames and an image."""
    layout = Layout.of(torch.tensor([[3, 140, 280], [1, 448, 448]]), torch.tensor([2, 1]), 14)
    pack_patches(torch.zeros(layout.num_bytes, dtype=torch.uint8), layout, dtype=torch.bfloat16)


TRAFFIC_CASES: dict[str, Callable[[], None]] = {"rope_2d": _rope_2d, "pack_patches": _pack_patches}

SHARED_SECTOR = (
    "a half head of 72 bytes ends inside a sector, which both halves ask for; the second time it is in the cache"
)

NOTES: dict[tuple[str, str, str], str] = {  # (op, kernel, argument)
    ("rope_2d", "_rotate_kernel", argument): SHARED_SECTOR for argument in ("q", "k", "q_out", "k_out")
}
