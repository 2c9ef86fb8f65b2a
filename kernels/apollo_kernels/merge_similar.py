"""Merge runs of similar visual tokens at one place of a video into their mean: the reducer for natural video.

Where a camera moves or noise changes every pixel, comparing pixels (DiffFP) saves nothing; features stay alike.
V items · F frames of all items · M visual tokens before reduction · K rows of the output, one a run · D channels · T programs
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from apollo_kernels.launch import Tiles, choose, require_contiguous, runs_triton
from apollo_kernels.layout import COLUMNS, FIRST, FRAMES, MERGE, ROWS, TILE_COLUMNS, TOKEN_START, Layout, tile_table
from apollo_kernels.merge_compact import (
    bag_means,
    count_before,
    count_rows,
    resize_bags,
    rows_past,
    spread_means,
    token_grid,
)

TILES: Tiles = {  # places that one program of `_runs_kernel` follows through all frames, a token of each in registers
    "cuda": {"BLOCK_PLACES": 1, "num_warps": 4},
    "hip": {"BLOCK_PLACES": 1, "num_warps": 4},
    "interpreter": {"BLOCK_PLACES": 64, "num_warps": 4},
}


class Runs(NamedTuple):
    """Runs of tokens that follow each other as one. A run begins at a token that differs from the first one of the run before
    it.
    """

    head_frame: Tensor  # (M,) int32: frame, counted in its item, of the first token of each token's run
    keep_mask: Tensor  # (M,) bool: tokens that begin a run
    frame_counts: Tensor  # (F,) int32: runs that begin in each frame


def merge_similar(
    tokens: Tensor, layout: Layout, *, threshold: float, num_tokens: int | None = None
) -> tuple[Tensor, Tensor, Runs]:
    """Return the merged tokens (K, D), their weights (K,) and the runs: `similar_runs`, then `merge_runs`."""
    runs = similar_runs(tokens, layout, threshold=threshold)
    return *merge_runs(tokens, layout, runs, num_tokens), runs


def similar_runs(tokens: Tensor, layout: Layout, *, threshold: float) -> Runs:
    """Return the runs of tokens (M, D) at one place whose cosine similarity to the first token of their run is ≥ threshold.

    Comparing with the first token, not with the one before, ends a run under slow drift: with threshold 0.9, a token at 0°, 20°,
    40° and 60° in four frames gives head frames 0 0 2 2. A first frame begins runs everywhere, so images stay whole.

    A token a joins the run that b began where a·b ≥ threshold·|a|·|b| in float32: never where one holds NaN, always where one is
    all zeros. threshold lies in (-1, 1]; 1 is of little use, for rounding may part even equal tokens.
    Nothing here has a gradient.
    """
    _require_tokens(tokens, layout)
    if not -1 < threshold <= 1:
        raise ValueError(f"threshold is a cosine above -1 and at most 1, not {threshold}")
    return Runs(*_similar_runs(tokens.detach(), layout.items, layout.num_frames, threshold))


def merge_runs(tokens: Tensor, layout: Layout, runs: Runs, num_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean (K, D) of each run of `similar_runs`, in the place of its first token, and weights (K,) float32: its length.

    Sums are float32, float64 for float64. The weights are for an attention or a loss in which a merged token counts as the tokens
    that it stands for; they have no gradient. num_tokens: K, as in `merge_compact`: known, or None and counted with a host read,
    or a capacity, where rows past the runs are zeros of weight 0.
    """
    _require_tokens(tokens, layout)
    require_contiguous(head_frame=runs.head_frame, keep_mask=runs.keep_mask)
    shape, dtypes = (layout.num_tokens,), (runs.head_frame.dtype, runs.keep_mask.dtype)
    if (runs.head_frame.shape, runs.keep_mask.shape) != (shape, shape) or dtypes != (torch.int32, torch.bool):
        raise ValueError(
            f"runs of {tuple(runs.head_frame.shape)} and {tuple(runs.keep_mask.shape)} tokens in a layout of {layout.num_tokens}; "
            f"head_frame and keep_mask are int32 and bool, not {dtypes[0]} and {dtypes[1]}"
        )
    num_rows = count_rows(runs.keep_mask, layout.num_tokens, num_tokens)
    return _merge_runs(tokens, runs.head_frame, runs.keep_mask, layout.items, num_rows)


def _require_tokens(tokens: Tensor, layout: Layout) -> None:
    require_contiguous(tokens=tokens)
    if tokens.ndim != 2 or tokens.shape[0] != layout.num_tokens or not tokens.is_floating_point():
        raise ValueError(
            f"tokens are ({layout.num_tokens}, D) floats in this layout, not {tuple(tokens.shape)} {tokens.dtype}"
        )


def _places(items: Tensor) -> Tensor:
    """(V,) tokens of one frame of each item."""
    *_, rows, columns, merge = items.unbind(1)
    return rows * columns // merge**2


def runs_reference(tokens: Tensor, items: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Reference of `_runs_kernel` in plain PyTorch: frame after frame, all items that have that frame at once."""
    head_frame = tokens.new_zeros(len(tokens), dtype=torch.int32)
    keep_mask = tokens.new_ones(len(tokens), dtype=torch.bool)
    frames = items[:, FRAMES.value]
    frames, longest_first = frames[frames > 1].sort(descending=True)  # so that a frame's places are the first ones
    videos = items[items[:, FRAMES.value] > 1][longest_first]
    places = _places(videos)
    starts = videos[:, TOKEN_START.value] - places.cumsum(dim=0) + places
    token = (torch.arange(int(places.sum())) + starts.repeat_interleave(places)).to(tokens.device)  # (P,) in frame 0
    step = places.repeat_interleave(places).to(tokens.device)
    head = tokens.index_select(0, token).float()  # (P, D) the first token of each place's present run
    head_norm = torch.linalg.vector_norm(head, dim=1)
    begun = torch.zeros_like(token, dtype=torch.int32)  # its frame
    for frame in range(1, int(frames[0]) if len(frames) else 1):
        num_places = int(places[frames > frame].sum())
        token = token[:num_places] + step[:num_places]
        current = tokens.index_select(0, token).float()  # (P', D)
        norm = torch.linalg.vector_norm(current, dim=1)
        dot = torch.linalg.vecdot(current, head[:num_places])
        begins = ~(dot >= threshold * head_norm[:num_places] * norm)
        place = begins.nonzero().squeeze(1)
        head[place], head_norm[place], begun[place] = current[place], norm[place], frame
        head_frame[token], keep_mask[token] = begun[:num_places], begins
    return head_frame, keep_mask


def mean_reference(
    tokens: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Reference of `_mean_fwd_kernel` in plain PyTorch."""
    index, lengths = _tokens_of_rows(head_frame, keep_mask, items, num_tokens)
    return bag_means(tokens, index, lengths), lengths.float()


def mean_backward_reference(
    grad: Tensor, weights: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor
) -> Tensor:
    """Reference of `_mean_bwd_kernel` in plain PyTorch."""
    index, lengths = _tokens_of_rows(head_frame, keep_mask, items, len(weights))
    return spread_means(grad, index, lengths, len(keep_mask))


def _tokens_of_rows(head_frame: Tensor, keep_mask: Tensor, items: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Tokens that reach the output, run after run, and how many of them each row takes (K,)."""
    places = _places(items)
    lengths = items[:, FRAMES.value] * places  # (V,)
    start, step = (x.repeat_interleave(lengths).to(head_frame.device) for x in (items[:, TOKEN_START.value], places))
    token = torch.arange(len(head_frame), device=head_frame.device)
    frame = (token - start) // step
    run = count_before(keep_mask)[token - (frame - head_frame) * step]  # (M,)
    return resize_bags(run.argsort(stable=True), run.bincount(), num_tokens)


@triton.jit
def _runs_kernel(
    tokens, tiles, head_frame_out, keep_mask_out, threshold,
    D: tl.constexpr, BLOCK_PLACES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A token joins the run of its place where token·head ≥ threshold·|head|·|token|, else it begins one and is the next head."""
    line = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    merge = tl.load(line + MERGE)
    places = (tl.load(line + ROWS) // merge) * (tl.load(line + COLUMNS) // merge)
    place = tl.load(line + FIRST) + tl.arange(0, BLOCK_PLACES)
    exists = place < places
    columns = tl.arange(0, BLOCK_D)
    mask = exists[:, None] & (columns < D)[None, :]  # (P, D)
    token = tl.load(line + TOKEN_START) + place
    head = tl.load(tokens + token[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    head_norm = tl.sqrt(tl.sum(head * head, axis=1))
    head_frame = tl.zeros([BLOCK_PLACES], tl.int32)
    tl.store(head_frame_out + token, head_frame, mask=exists)
    tl.store(keep_mask_out + token, exists, mask=exists)
    # In stages, the next frames' tokens are on their way while this one is compared.
    for frame in tl.range(1, tl.load(line + FRAMES).to(tl.int32), num_stages=3):
        token += places
        current = tl.load(tokens + token[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(current * current, axis=1))
        joins = tl.sum(current * head, axis=1) >= threshold * head_norm * norm
        head = tl.where(joins[:, None], head, current)
        head_norm = tl.where(joins, head_norm, norm)
        head_frame = tl.where(joins, head_frame, frame)
        tl.store(head_frame_out + token, head_frame, mask=exists)
        tl.store(keep_mask_out + token, ~joins, mask=exists)


@triton.jit
def _heads_of_tile(tiles, head_frame, keep_mask, before, BLOCK_TOKENS: tl.constexpr):
    """The tokens (B,) of this program, whether they begin a run, in which frame, and its row in the output; then where their item
    ends, and how far a place is from the same place in the next frame."""
    line = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    merge = tl.load(line + MERGE)
    step = (tl.load(line + ROWS) // merge) * (tl.load(line + COLUMNS) // merge)
    start = tl.load(line + TOKEN_START)
    end = start + tl.load(line + FRAMES) * step
    token = start + tl.load(line + FIRST) + tl.arange(0, BLOCK_TOKENS)  # (B,)
    begins = tl.load(keep_mask + token, mask=token < end, other=0) != 0
    frame = tl.load(head_frame + token, mask=begins, other=0)
    row = tl.load(before + token, mask=begins, other=0).to(tl.int64)
    return token, begins, frame, row, end, step


@triton.jit
def _next_of_run(head_frame, token, alive, frame, end, step):
    """The same places one frame later, and whether they still belong to the runs that began in `frame`."""
    token += step
    alive = alive & (token < end)
    return token, alive & (tl.load(head_frame + token, mask=alive, other=-1) == frame)


@triton.jit
def _mean_fwd_kernel(
    tokens, head_frame, keep_mask, before, tiles, merged_out, weights_out, num_layout_tokens, num_tokens,
    D: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each token that begins a run becomes the mean of the run, stored at the number of runs before it, beside its length."""
    token, begins, frame, row, end, step = _heads_of_tile(tiles, head_frame, keep_mask, before, BLOCK_TOKENS)
    stored = begins & (row < num_tokens)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (columns < D)[None, :]
    wide = tl.float64 if tokens.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros([BLOCK_TOKENS, BLOCK_D], wide)
    length = tl.zeros([BLOCK_TOKENS], tl.float32)
    alive = stored
    while tl.max(alive.to(tl.int32), axis=0) != 0:
        rows = tl.load(tokens + token[:, None] * D + columns[None, :], mask=alive[:, None] & inside, other=0.0)
        total += rows.to(wide)
        length += alive.to(tl.float32)
        token, alive = _next_of_run(head_frame, token, alive, frame, end, step)
    mean = total * (1.0 / tl.where(stored, length, 1.0).to(wide))[:, None]
    address = merged_out + row[:, None] * D + columns[None, :]
    tl.store(address, mean.to(merged_out.dtype.element_ty), mask=stored[:, None] & inside)
    tl.store(weights_out + row, length, mask=stored & (tl.program_id(1) == 0))
    row, past = rows_past(tl.load(before + num_layout_tokens), num_tokens, BLOCK_TOKENS)
    tl.store(merged_out + row[:, None] * D + columns[None, :], 0.0, mask=past[:, None] & inside)
    tl.store(weights_out + row, 0.0, mask=past & (tl.program_id(1) == 0))


@triton.jit
def _mean_bwd_kernel(
    grad, weights, head_frame, keep_mask, before, tiles, tokens_grad_out, num_tokens,
    D: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Every token of a run gets the gradient of its mean / its length, or 0 where the mean did not reach the output."""
    token, begins, frame, row, end, step = _heads_of_tile(tiles, head_frame, keep_mask, before, BLOCK_TOKENS)
    stored = begins & (row < num_tokens)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (columns < D)[None, :]
    wide = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    scale = 1.0 / tl.load(weights + row, mask=stored, other=1.0).to(wide)
    row_grad = tl.load(grad + row[:, None] * D + columns[None, :], mask=stored[:, None] & inside, other=0.0)
    share = (row_grad.to(wide) * scale[:, None]).to(tokens_grad_out.dtype.element_ty)  # (B, D)
    alive = begins
    while tl.max(alive.to(tl.int32), axis=0) != 0:
        tl.store(tokens_grad_out + token[:, None] * D + columns[None, :], share, mask=alive[:, None] & inside)
        token, alive = _next_of_run(head_frame, token, alive, frame, end, step)


def _launch_runs(tokens: Tensor, items: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    num_tokens, num_channels = tokens.shape
    head_frame_out = tokens.new_empty(num_tokens, dtype=torch.int32)
    keep_mask_out = tokens.new_empty(num_tokens, dtype=torch.bool)
    sizes: dict[str, Any] = {**choose(TILES), "D": num_channels, "BLOCK_D": triton.next_power_of_2(num_channels)}
    places = _places(items) * (items[:, FRAMES.value] > 0)
    tiles = tile_table(items, places, sizes["BLOCK_PLACES"], tokens.device)
    if num_tokens:
        _runs_kernel[(len(tiles),)](tokens, tiles, head_frame_out, keep_mask_out, threshold, **sizes)
    return head_frame_out, keep_mask_out


def _launch_mean(
    tokens: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    num_layout_tokens, num_channels = tokens.shape
    merged_out = tokens.new_empty(num_tokens, num_channels)
    weights_out = tokens.new_empty(num_tokens, dtype=torch.float32)
    if merged_out.numel():
        tiles, grid, sizes = token_grid(items, num_channels, tokens.device)
        _mean_fwd_kernel[grid](
            tokens, head_frame, keep_mask, count_before(keep_mask), tiles, merged_out, weights_out,
            num_layout_tokens, num_tokens, **sizes,
        )  # fmt: skip
    return merged_out, weights_out


def _launch_mean_backward(
    grad: Tensor, weights: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor
) -> Tensor:
    num_tokens, num_channels = grad.shape
    tokens_grad_out = grad.new_empty(len(keep_mask), num_channels)
    if tokens_grad_out.numel():
        tiles, grid, sizes = token_grid(items, num_channels, grad.device)
        _mean_bwd_kernel[grid](
            grad, weights, head_frame, keep_mask, count_before(keep_mask), tiles, tokens_grad_out,
            num_tokens, **sizes,
        )  # fmt: skip
    return tokens_grad_out


@torch.library.custom_op("apollo_kernels::similar_runs", mutates_args=())
def _similar_runs(tokens: Tensor, items: Tensor, num_frames: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    head_frame, keep_mask = (_launch_runs if runs_triton(tokens) else runs_reference)(tokens, items, threshold)
    frame_tokens = _places(items).repeat_interleave(items[:, FRAMES.value])  # (F,)
    frame_starts = functional.pad(frame_tokens.cumsum(dim=0), (1, 0)).to(tokens.device, non_blocking=True)
    return head_frame, keep_mask, count_before(keep_mask).index_select(0, frame_starts).diff()


@_similar_runs.register_fake
def _(tokens: Tensor, items: Tensor, num_frames: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    head_frame, frame_counts = (tokens.new_empty(n, dtype=torch.int32) for n in (tokens.shape[0], num_frames))
    return head_frame, torch.empty_like(head_frame, dtype=torch.bool), frame_counts


@torch.library.custom_op("apollo_kernels::merge_runs", mutates_args=())
def _merge_runs(
    tokens: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    mean = _launch_mean if runs_triton(tokens) else mean_reference
    return mean(tokens, head_frame, keep_mask, items, num_tokens)


@_merge_runs.register_fake
def _(tokens: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    return tokens.new_empty(num_tokens, tokens.shape[1]), tokens.new_empty(num_tokens, dtype=torch.float32)


@torch.library.custom_op("apollo_kernels::merge_runs_backward", mutates_args=())
def _merge_runs_backward(grad: Tensor, weights: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor) -> Tensor:
    backward = _launch_mean_backward if runs_triton(grad) else mean_backward_reference
    return backward(grad, weights, head_frame, keep_mask, items)


@_merge_runs_backward.register_fake
def _(grad: Tensor, weights: Tensor, head_frame: Tensor, keep_mask: Tensor, items: Tensor) -> Tensor:
    return grad.new_empty(keep_mask.shape[0], grad.shape[1])


def _save_runs(ctx, inputs, output) -> None:
    _, head_frame, keep_mask, items, _ = inputs
    _, weights = output
    ctx.mark_non_differentiable(weights)
    ctx.save_for_backward(weights, head_frame, keep_mask, items)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return _merge_runs_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None, None


_merge_runs.register_autograd(_backward, setup_context=_save_runs)
