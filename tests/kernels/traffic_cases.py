"""Cases of `verification.traffic`: every op at shapes of the 2B recipe, and reasons for extra bytes."""

from collections.abc import Callable

import torch

from apollo_kernels import merge_compact, merge_similar, pack_patches, rope_2d, rope_2d_tables, similarity_keep
from apollo_kernels.launch import triton_on_cpu
from apollo_kernels.layout import Layout

HEADS, HEAD_DIM = 16, 72  # of the vision encoder
WIDTH = HEADS * HEAD_DIM
FRAME = (10, 20)  # patches of 14 × 14 in a frame
PIXELS = (140, 280)  # of that frame


def _rope_2d() -> None:
    """One frame, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    cos, sin = rope_2d_tables(torch.cartesian_prod(*map(torch.arange, FRAME)), HEAD_DIM)
    q, k = (torch.randn(len(cos), HEADS, HEAD_DIM, generator=generator).bfloat16().requires_grad_() for _ in range(2))
    torch.autograd.backward(rope_2d(q, k, cos, sin), (torch.ones_like(q), torch.ones_like(k)))


def _pack_patches() -> None:
    """A video of three frames and an image."""
    layout = Layout.of(torch.tensor([[3, *PIXELS], [1, 448, 448]]), torch.tensor([2, 1]), 14)
    pack_patches(torch.zeros(layout.num_bytes, dtype=torch.uint8), layout, dtype=torch.bfloat16)


def _similarity_keep() -> None:
    """A video whose frames are two chunks of a program's, and an image; then slow drift against the last kept frame."""
    layout = Layout.of(torch.tensor([[33, *PIXELS], [1, 448, 448]]), torch.tensor([2, 1]), 14)
    similarity_keep(torch.zeros(layout.num_bytes, dtype=torch.uint8), layout, threshold_grey_levels=0.05)


def _similarity_keep_last_kept() -> None:
    layout = Layout.of(torch.tensor([[5, *PIXELS]]), torch.tensor([2]), 14)
    pixels = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    similarity_keep(pixels, layout, threshold_grey_levels=0.05, reference="last_kept")


def _merge_compact() -> None:
    """Forward and backward of half the tokens of three frames and an image."""
    layout = Layout.of(torch.tensor([[3, *PIXELS], [1, 448, 448]]), torch.tensor([2, 1]), 14)
    features = torch.ones(layout.num_patches, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    keep_mask = torch.arange(layout.num_tokens) % 2 == 0
    merge_compact(features, layout, keep_mask, int(keep_mask.sum())).sum().backward()


def _merge_similar() -> None:
    """Forward and backward of runs of two frames."""
    layout = Layout.of(torch.tensor([[4, *PIXELS]]), torch.tensor([2]), 14)
    scenes = torch.eye(2, WIDTH).repeat_interleave(2 * layout.num_tokens // 4, dim=0)
    tokens = scenes.bfloat16().requires_grad_()
    merge_similar(tokens, layout, threshold=0.9, num_tokens=layout.num_tokens // 2)[0].sum().backward()


OPS: dict[str, Callable[[], None]] = {
    "rope_2d": _rope_2d,
    "pack_patches": _pack_patches,
    "similarity_keep": _similarity_keep,
    "similarity_keep, last kept": _similarity_keep_last_kept,
    "merge_compact": _merge_compact,
    "merge_similar": _merge_similar,
}
CASES = {name: triton_on_cpu("cuda")(run) for name, run in OPS.items()}

SHARED_SECTOR = (
    "a half head of 72 bytes ends inside a sector, which both halves ask for; the second time it is in the cache"
)
TWO_PLACES = "two places are segments of 56 bytes; the program beside reads the rest of their sectors, from the cache"

NOTES: dict[tuple[str, str, str], str] = {  # (op, kernel, argument)
    **{("rope_2d", "_rotate_kernel", argument): SHARED_SECTOR for argument in ("q", "k", "q_out", "k_out")},
    ("similarity_keep, last kept", "_change_kernel", "words"): TWO_PLACES,
}
