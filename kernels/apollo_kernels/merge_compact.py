"""Merge patches into visual tokens: the mean of each m×m block, without dropped tokens.

N patches · M visual tokens before reduction · K rows of the output · D channels · m merge size · T programs of a launch
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from apollo_kernels.launch import Tiles, choose, require_contiguous, runs_triton
from apollo_kernels.layout import (
    COLUMNS,
    FIRST,
    FRAMES,
    MERGE,
    PATCH_START,
    ROWS,
    TILE_COLUMNS,
    TOKEN_START,
    Layout,
    tile_table,
)

TILES: Tiles = {  # tokens and channels of one program
    "cuda": {"BLOCK_TOKENS": 16, "BLOCK_D": 128, "num_warps": 8},
    "hip": {"BLOCK_TOKENS": 32, "BLOCK_D": 128, "num_warps": 4},
    "interpreter": {"BLOCK_TOKENS": 64, "BLOCK_D": 2048, "num_warps": 4},
}


def merge_compact(
    features: Tensor, layout: Layout, keep_mask: Tensor | None = None, num_tokens: int | None = None
) -> Tensor:
    """Return visual tokens (K, D) in order: the mean of the m² patches of each token that `keep_mask` (M,) bool keeps, or of all.

    features: (N, D) in block order, where the patches of one token follow each other. With m = 2, eight patches and a mask of
    True False give one row, the mean of the first four. For m = 2 the mean equals the bilinear downsampling of the paper
    (VideoLLaMA 3 §3.3). Sums are float32, float64 for float64; a dropped token's patches get no gradient.

    num_tokens: K. Where the caller knows how many are kept, nothing is read from the device; None counts them, which is one host
    read. It may be a capacity: rows past the kept ones are zeros, and one below their number drops the last ones, so the caller
    compares it with its counts.
    """
    require_contiguous(features=features, keep_mask=keep_mask)
    if features.ndim != 2 or features.shape[0] != layout.num_patches or not features.is_floating_point():
        raise ValueError(
            f"features are ({layout.num_patches}, D) floats in this layout, not {tuple(features.shape)} {features.dtype}"
        )
    if keep_mask is not None and (keep_mask.shape != (layout.num_tokens,) or keep_mask.dtype != torch.bool):
        raise ValueError(
            f"keep_mask is ({layout.num_tokens},) bool in this layout, not {tuple(keep_mask.shape)} {keep_mask.dtype}"
        )
    num_rows = count_rows(keep_mask, layout.num_tokens, num_tokens)
    return _merge(features, keep_mask, layout.items, num_rows)


def count_rows(keep_mask: Tensor | None, num_layout_tokens: int, num_tokens: int | None) -> int:
    """Rows of a reduced tensor: what the caller says, or what the mask keeps (a host read), or all."""
    if num_tokens is None:
        return num_layout_tokens if keep_mask is None else int(keep_mask.sum())
    if not 0 <= num_tokens <= num_layout_tokens:
        raise ValueError(f"num_tokens is 0 to {num_layout_tokens}, the tokens of the layout, not {num_tokens}")
    return num_tokens


def count_before(keep_mask: Tensor) -> Tensor:
    """(M + 1,) int32: kept tokens before each token, which is a kept token's row in the output; the last one counts all."""
    return functional.pad(keep_mask.cumsum(dim=0, dtype=torch.int32), (1, 0))


def merge_reference(features: Tensor, keep_mask: Tensor | None, items: Tensor, num_tokens: int) -> Tensor:
    """Reference of `_fwd_kernel` in plain PyTorch."""
    return bag_means(features, *_patches_of_rows(keep_mask, items.to(features.device), num_tokens))


def merge_backward_reference(grad: Tensor, keep_mask: Tensor | None, items: Tensor, num_patches: int) -> Tensor:
    """Reference of `_bwd_kernel` in plain PyTorch."""
    return spread_means(grad, *_patches_of_rows(keep_mask, items.to(grad.device), len(grad)), num_patches)


def _patches_of_rows(keep_mask: Tensor | None, items: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Patches that reach the output, in its order, and how many of them each of its rows takes (K,)."""
    *_, frames, rows, columns, merge = items.unbind(1)  # (V,) each
    lengths = (merge**2).repeat_interleave(frames * rows * columns // merge**2)  # (M,)
    kept = torch.ones_like(lengths, dtype=torch.bool) if keep_mask is None else keep_mask
    index = kept.repeat_interleave(lengths).nonzero().squeeze(1)
    return resize_bags(index, lengths[kept], num_tokens)


def resize_bags(index: Tensor, lengths: Tensor, num_bags: int) -> tuple[Tensor, Tensor]:
    """The first `num_bags` bags of a list of bags, filled up with empty ones: their rows one after the other, and their lengths."""
    lengths = lengths[:num_bags]
    return index[: int(lengths.sum())], functional.pad(lengths, (0, num_bags - len(lengths)))


def bag_means(rows: Tensor, index: Tensor, lengths: Tensor) -> Tensor:
    """(K, D): the mean of the first lengths[0] rows that `index` names, of the next lengths[1], and so on; 0 for an empty bag."""
    if len(index) == 0:
        return rows.new_zeros(len(lengths), rows.shape[1])
    wide = torch.promote_types(rows.dtype, torch.float32)
    weights = lengths.to(wide).reciprocal()
    # Half precision holds a weight of 1/4 but not 1/9. Where it holds all, rows need no wide copy: sums are float32 inside.
    table = rows if bool((weights.to(rows.dtype) == weights).all()) else rows.to(wide)
    means = functional.embedding_bag(
        index,
        table,
        functional.pad(lengths.cumsum(dim=0), (1, 0)),
        mode="sum",
        per_sample_weights=weights.to(table.dtype).repeat_interleave(lengths),
        include_last_offset=True,
    )
    return means.to(rows.dtype)


def spread_means(grad: Tensor, index: Tensor, lengths: Tensor, num_rows: int) -> Tensor:
    """(num_rows, D): the gradient of `bag_means` for its rows, with 0 for a row in no bag."""
    num_bags = len(lengths)
    shares = grad.new_empty(num_bags + 1, grad.shape[1])
    shares[-1] = 0  # for rows in no bag
    counts = lengths.clamp(min=1).to(torch.promote_types(grad.dtype, torch.float32))
    torch.div(grad, counts[:, None], out=shares[:-1])  # in the wider dtype
    bag = index.new_full((num_rows,), num_bags)  # of each row
    bag[index] = torch.arange(num_bags, device=grad.device).repeat_interleave(lengths)
    return shares.index_select(0, bag)


@triton.jit
def _tokens_of_tile(tiles, keep_mask, before, num_tokens, BLOCK_TOKENS: tl.constexpr):
    """Of the tokens (B,) of this program: whether they exist, their first patch, whether they reach the output, their row there.
    And m²."""
    line = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    merge = tl.load(line + MERGE)
    square = merge * merge
    rank = tl.load(line + FIRST) + tl.arange(0, BLOCK_TOKENS)  # (B,) in the item
    exists = rank * square < tl.load(line + FRAMES) * tl.load(line + ROWS) * tl.load(line + COLUMNS)
    row = tl.load(line + TOKEN_START) + rank
    kept = exists
    if keep_mask is not None:
        kept = tl.load(keep_mask + row, mask=exists, other=0) != 0
        row = tl.load(before + row, mask=kept, other=0).to(tl.int64)
    return exists, tl.load(line + PATCH_START) + rank * square, kept & (row < num_tokens), row, square


@triton.jit
def rows_past(num_kept, num_rows, BLOCK_ROWS: tl.constexpr):
    """The rows (B,) of the output that this program fills with zeros, and a mask of those that lie in num_kept to num_rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return row, (row >= num_kept) & (row < num_rows)


@triton.jit
def _fwd_kernel(
    features, keep_mask, before, tiles, tokens_out, num_layout_tokens, num_tokens,
    D: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """token = Σ of its m² patches / m², stored at the number of kept tokens before it. VideoLLaMA 3 §3.3."""
    _, patch, stored, row, square = _tokens_of_tile(tiles, keep_mask, before, num_tokens, BLOCK_TOKENS)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (columns < D)[None, :]
    mask = stored[:, None] & inside  # (B, D)
    wide = tl.float64 if features.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros([BLOCK_TOKENS, BLOCK_D], wide)
    for corner in range(square):
        total += tl.load(features + (patch + corner)[:, None] * D + columns[None, :], mask=mask, other=0.0).to(wide)
    mean = (total * (1.0 / square.to(wide))).to(tokens_out.dtype.element_ty)
    tl.store(tokens_out + row[:, None] * D + columns[None, :], mean, mask=mask)
    if keep_mask is not None:
        row, past = rows_past(tl.load(before + num_layout_tokens), num_tokens, BLOCK_TOKENS)
        tl.store(tokens_out + row[:, None] * D + columns[None, :], 0.0, mask=past[:, None] & inside)


@triton.jit
def _bwd_kernel(
    grad, keep_mask, before, tiles, features_grad_out, num_tokens,
    D: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each of the m² patches of a token gets the token's gradient / m², or 0 where the token was dropped."""
    exists, patch, stored, row, square = _tokens_of_tile(tiles, keep_mask, before, num_tokens, BLOCK_TOKENS)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (columns < D)[None, :]
    wide = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    token_grad = tl.load(grad + row[:, None] * D + columns[None, :], mask=stored[:, None] & inside, other=0.0)
    share = (token_grad.to(wide) * (1.0 / square.to(wide))).to(features_grad_out.dtype.element_ty)  # (B, D)
    for corner in range(square):
        address = features_grad_out + (patch + corner)[:, None] * D + columns[None, :]
        tl.store(address, share, mask=exists[:, None] & inside)


def token_grid(
    items: Tensor, num_channels: int, device: torch.device
) -> tuple[Tensor, tuple[int, int], dict[str, Any]]:
    """Tile table (T, 8), grid and constants of a launch over blocks of tokens and blocks of channels."""
    sizes: dict[str, Any] = {**choose(TILES), "D": num_channels}
    sizes["BLOCK_D"] = min(sizes["BLOCK_D"], triton.next_power_of_2(num_channels))
    *_, frames, rows, columns, merge = items.unbind(1)
    tiles = tile_table(items, frames * rows * columns // merge**2, sizes["BLOCK_TOKENS"], device)
    return tiles, (len(tiles), triton.cdiv(num_channels, sizes["BLOCK_D"])), sizes


def _launch(features: Tensor, keep_mask: Tensor | None, items: Tensor, num_tokens: int) -> Tensor:
    num_channels = features.shape[1]
    tokens_out = features.new_empty(num_tokens, num_channels)
    before = None if keep_mask is None else count_before(keep_mask)
    if tokens_out.numel():
        tiles, grid, sizes = token_grid(items, num_channels, features.device)
        num_layout_tokens = num_tokens if keep_mask is None else len(keep_mask)
        _fwd_kernel[grid](features, keep_mask, before, tiles, tokens_out, num_layout_tokens, num_tokens, **sizes)
    return tokens_out


def _launch_backward(grad: Tensor, keep_mask: Tensor | None, items: Tensor, num_patches: int) -> Tensor:
    num_tokens, num_channels = grad.shape
    features_grad_out = grad.new_empty(num_patches, num_channels)
    before = None if keep_mask is None else count_before(keep_mask)
    if features_grad_out.numel():
        tiles, grid, sizes = token_grid(items, num_channels, grad.device)
        _bwd_kernel[grid](grad, keep_mask, before, tiles, features_grad_out, num_tokens, **sizes)
    return features_grad_out


@torch.library.custom_op("apollo_kernels::merge_compact", mutates_args=())
def _merge(features: Tensor, keep_mask: Tensor | None, items: Tensor, num_tokens: int) -> Tensor:
    return (_launch if runs_triton(features) else merge_reference)(features, keep_mask, items, num_tokens)


@torch.library.custom_op("apollo_kernels::merge_compact_backward", mutates_args=())
def _merge_backward(grad: Tensor, keep_mask: Tensor | None, items: Tensor, num_patches: int) -> Tensor:
    return (_launch_backward if runs_triton(grad) else merge_backward_reference)(grad, keep_mask, items, num_patches)


@_merge.register_fake
@_merge_backward.register_fake
def _(rows: Tensor, keep_mask: Tensor | None, items: Tensor, num_rows: int) -> Tensor:
    return rows.new_empty(num_rows, rows.shape[1])


def _save_layout(ctx, inputs, output) -> None:
    features, keep_mask, items, _ = inputs
    ctx.num_patches = features.shape[0]
    ctx.save_for_backward(keep_mask, items)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    keep_mask, items = ctx.saved_tensors
    return _merge_backward(grad.contiguous(), keep_mask, items, ctx.num_patches), None, None, None


_merge.register_autograd(_backward, setup_context=_save_layout)
