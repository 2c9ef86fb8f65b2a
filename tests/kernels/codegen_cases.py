"""Cases of `codegen`: each op at the widths of the 2B model, forward and backward."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
import triton
from torch import Tensor

from apollo_kernels import merge_compact, pack_patches, rope_2d, similarity_keep
from apollo_kernels.launch import triton_on_cpu
from apollo_kernels.layout import Layout
from apollo_kernels.merge_similar import merge_similar
from verification.codegen import Case

HEADS, HEAD_DIM, HIDDEN, PATCH = 16, 72, 1152, 14  # of VideoLLaMA 3's encoder, SigLIP so400m


def _layout(num_frames: int, num_tokens: int, merge_size: int) -> Layout:
    """One item with a row of tokens in each frame."""
    side = PATCH * merge_size
    return Layout.of(torch.tensor([[num_frames, side, side * num_tokens]]), torch.tensor([merge_size]), PATCH)


def _backward(*outputs: Tensor) -> None:
    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])


def _rope_2d(n: int, dtype: torch.dtype) -> None:
    q, k = (torch.empty(n, HEADS, HEAD_DIM, dtype=dtype, requires_grad=True) for _ in range(2))
    cos, sin = torch.empty(n, HEAD_DIM // 2), torch.empty(n, HEAD_DIM // 2)
    _backward(*rope_2d(q, k, cos, sin))


def _pack_patches(n: int, dtype: torch.dtype) -> None:
    layout = _layout(1, n, merge_size=1)
    pack_patches(torch.empty(layout.num_bytes, dtype=torch.uint8), layout, dtype=dtype)


def _similarity_keep(merge_size: int, n: int, dtype: torch.dtype, **options: object) -> None:
    layout = _layout(2, n, merge_size)
    similarity_keep(torch.empty(layout.num_bytes, dtype=dtype), layout, **options)


def _merge_compact(n: int, dtype: torch.dtype, reduced: bool) -> None:
    layout = _layout(1, n, merge_size=2)
    features = torch.empty(layout.num_patches, HIDDEN, dtype=dtype, requires_grad=True)
    keep_mask = torch.empty(layout.num_tokens, dtype=torch.bool) if reduced else None
    _backward(merge_compact(features, layout, keep_mask, num_tokens=layout.num_tokens))


def _merge_similar(n: int, dtype: torch.dtype) -> None:
    layout = _layout(1, n, merge_size=2)
    tokens = torch.empty(layout.num_tokens, HIDDEN, dtype=dtype, requires_grad=True)
    merged, *_ = merge_similar(tokens, layout, threshold=0.9, num_tokens=layout.num_tokens)
    _backward(merged)


def _with_tiles_of_the_target(run: Callable[[int, torch.dtype], None], n: int, dtype: torch.dtype) -> None:
    with triton_on_cpu(triton.runtime.driver.active.get_current_target().backend):
        run(n, dtype)


PIXELS = (torch.uint8,)
OPS = {
    "rope_2d": Case(_rope_2d),
    "pack_patches": Case(_pack_patches),
    "merge_compact all": Case(partial(_merge_compact, reduced=False)),
    "merge_compact kept": Case(partial(_merge_compact, reduced=True)),
    "merge_similar": Case(_merge_similar),
    "similarity_keep image": Case(partial(_similarity_keep, 1, threshold_grey_levels=0.05), PIXELS),
    "similarity_keep previous": Case(partial(_similarity_keep, 2, threshold_grey_levels=0.05), PIXELS),
    "similarity_keep last_kept": Case(
        partial(_similarity_keep, 2, threshold_grey_levels=2.0, reference="last_kept"), PIXELS
    ),
    "similarity_keep bfloat16": Case(
        partial(_similarity_keep, 2, threshold_grey_levels=0.05, arithmetic="bfloat16"), PIXELS
    ),
    "similarity_keep budget": Case(partial(_similarity_keep, 2, token_budget=1024), PIXELS),
}
CASES: Mapping[str, Case] = {
    name: replace(case, run=partial(_with_tiles_of_the_target, case.run)) for name, case in OPS.items()
}
