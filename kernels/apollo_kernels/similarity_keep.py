"""Mask of visual tokens that changed since an earlier frame (DiffFP and its relatives), measured on uint8 pixels.

V items · F frames · M visual tokens · P places in a frame, one of each visual token · s side in pixels of a place
"""

from bisect import bisect_left
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from apollo_kernels.block_change import ALWAYS, BFLOAT16_UNIT, block_change
from apollo_kernels.launch import Tiles, choose, runs_triton
from apollo_kernels.layout import (
    COLUMNS,
    FIRST,
    FRAME_START,
    FRAMES,
    MERGE,
    ROWS,
    TILE_COLUMNS,
    TOKEN_START,
    Layout,
    tile_table,
)

REFERENCES = ("previous", "last_kept")
ARITHMETICS = ("exact", "bfloat16")

TILES: Tiles = {  # tokens that one program looks at together
    "cuda": {"BLOCK_TOKENS": 1024, "num_warps": 4},
    "hip": {"BLOCK_TOKENS": 1024, "num_warps": 4},
    "interpreter": {"BLOCK_TOKENS": 16, "num_warps": 4},
}


def similarity_keep(
    pixels: Tensor,
    layout: Layout,
    *,
    threshold_grey_levels: float | None = None,
    token_budget: int | None = None,
    reference: str = "previous",
    min_tokens: int = 1,
    arithmetic: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Return the mask (M,) bool of the tokens that stay, and how many do in each frame (F,) int32.

    With a threshold those stay that changed by more, with a budget the most changed ones.

    pixels: (B,) uint8 as `layout` has them, each item (F, 3, H, W). Images and first frames are kept whole.

    threshold_grey_levels: a token is kept where mean |Δ| over its 3·s·s bytes is above it, in grey levels of 0..255. Δ is taken
    against the same place in the `previous` frame, or in the frame where that place was `last_kept` for its change, which also
    notices slow drift. A frame with fewer than `min_tokens` keeps its first `min_tokens` places too; a token kept only for this
    is not what later ones are compared with, so that places do not depend on each other and every dropped token is within the
    threshold of one that was kept.

    token_budget: each video of several frames keeps exactly this many tokens, but at least its first frame and the first
    `min_tokens` places of the others: then the most changed since the `previous` frame, of equals the first in order.

    arithmetic: `exact` compares integers. `bfloat16` decides like the released models on a GPU, which round pixels, differences
    and mean to bfloat16; it is theirs bit for bit while a token's mean |Δ| that is near the threshold sums to less than 512
    in normalised pixels (27 grey levels for s = 28), where float32 adds without rounding.

    Source: VideoLLaMA 3 §2.2 (DiffFP) as its code does it: videollama3_arch.py:202-241. Its threshold 0.1 on normalised
    pixels times 255 is 0.05 grey levels.
    """
    layout.require_pixels(pixels)
    _require_options(threshold_grey_levels, token_budget, reference, min_tokens, arithmetic)
    return _similarity_keep(
        pixels, layout.items, layout.patch_size, layout.num_tokens, layout.num_frames,
        threshold_grey_levels, token_budget, min_tokens, reference == "last_kept", arithmetic == "bfloat16",
    )  # fmt: skip


def _require_options(
    threshold: float | None, token_budget: int | None, reference: str, min_tokens: int, arithmetic: str
) -> None:
    if reference not in REFERENCES:
        raise ValueError(f"reference is one of {', '.join(REFERENCES)}, not {reference!r}")
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"arithmetic is one of {', '.join(ARITHMETICS)}, not {arithmetic!r}")
    if (threshold is None) == (token_budget is None):
        raise ValueError(f"give threshold_grey_levels or token_budget: they are {threshold} and {token_budget}")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold_grey_levels is at least 0, not {threshold}")
    if token_budget is not None and (token_budget < 1 or reference != "previous" or arithmetic != "exact"):
        raise ValueError(
            f"token_budget is at least 1, with reference 'previous' and arithmetic 'exact', "
            f"not {token_budget} with {reference!r} and {arithmetic!r}"
        )
    if min_tokens < 0:
        raise ValueError(f"min_tokens is at least 0, not {min_tokens}")


def change_limit(threshold: float, side: int, bfloat16: bool) -> int:
    """The largest change (`block_change`) of a token of s×s pixels that the threshold in grey levels drops.

    0.05 grey levels over 3·28·28 bytes are 117.6: a change of 117 is dropped, one of 118 kept.
    """
    num_bytes = 3 * side**2
    largest = num_bytes * (2**16 if bfloat16 else 255)
    if largest >= ALWAYS.value:
        raise ValueError(f"the change of a token of {side}×{side} pixels can be {largest}: at most {ALWAYS.value - 1}")
    if bfloat16:
        return _released_limit(threshold, num_bytes, largest)
    nearest = round(min(threshold * num_bytes, float(largest)))
    return nearest if nearest / num_bytes <= threshold else nearest - 1


@lru_cache
def _released_limit(threshold: float, num_bytes: int, largest: int) -> int:
    """By bisection over the released arithmetic, in which a larger sum never has a smaller mean."""
    share = torch.tensor(1 / num_bytes, dtype=torch.float32)

    def is_kept(change: int) -> bool:
        mean = (torch.tensor(change * BFLOAT16_UNIT, dtype=torch.float32) * share).bfloat16()
        return bool(mean * 255 > 2 * threshold)  # normalised pixels are twice as far apart; both sides are bfloat16

    return bisect_left(range(largest + 1), True, key=is_kept) - 1


def keep_changed_reference(
    change: Tensor, items: Tensor, limits: dict[int, int], num_frames: int, min_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the mask (M,) bool of changes above their limit, at least `min_tokens` a frame, and count (F,) int32."""
    items = items.to(change.device)
    frame_of_token, place = _frames_and_places(items)
    keep = change > _limit_of_frame(items, limits)[frame_of_token]
    counts = _count(keep, frame_of_token, num_frames)
    keep |= (place < min_tokens) & (counts < min_tokens)[frame_of_token]
    return keep, _count(keep, frame_of_token, num_frames)


def keep_most_changed_reference(
    change: Tensor, items: Tensor, num_frames: int, token_budget: int
) -> tuple[Tensor, Tensor]:
    """Return the mask (M,) bool of the `token_budget` largest changes of every item, of equals the first, and what stays always;
    and counts (F,) int32."""
    items = items.to(change.device)
    num_tokens = items[:, FRAMES.value] * _num_places(items)  # (V,)
    item_of_token = torch.arange(len(items), device=items.device).repeat_interleave(num_tokens)  # (M,)
    order = ((item_of_token << 32) + (ALWAYS.value - change)).argsort(stable=True)
    rank = torch.arange(len(change), device=items.device) - items[item_of_token, TOKEN_START.value]
    keep = change == ALWAYS.value
    keep[order] |= rank < token_budget
    return keep, _count(keep, _frames_and_places(items)[0], num_frames)


def _limit_of_frame(items: Tensor, limits: dict[int, int]) -> Tensor:
    """(F,) int32."""
    limit_of_item = [limits[merge_size] for merge_size in items[:, MERGE.value].tolist()]
    return torch.tensor(limit_of_item, dtype=torch.int32, device=items.device).repeat_interleave(items[:, FRAMES.value])


def _num_places(items: Tensor) -> Tensor:
    """(V,) tokens of a frame of each item."""
    return items[:, ROWS.value] * items[:, COLUMNS.value] // items[:, MERGE.value] ** 2


def _frames_and_places(items: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) each: the number of every token's frame, and its place in that frame."""
    places = torch.repeat_interleave(_num_places(items), items[:, FRAMES.value])  # (F,)
    frame = torch.arange(len(places), device=items.device).repeat_interleave(places)
    return frame, torch.arange(len(frame), device=items.device) - (places.cumsum(dim=0) - places)[frame]


def _count(keep: Tensor, frame_of_token: Tensor, num_frames: int) -> Tensor:
    counts = torch.zeros(num_frames, dtype=torch.int32, device=keep.device)
    return counts.index_add_(0, frame_of_token, keep.to(torch.int32))


@triton.jit
def _load_num_places(line):
    merge_size = tl.load(line + MERGE)
    return (tl.load(line + ROWS) // merge_size) * (tl.load(line + COLUMNS) // merge_size)


@triton.jit
def _threshold_kernel(change, limits, table, keep_out, counts_out, min_tokens, BLOCK_TOKENS: tl.constexpr):
    """One frame: keep where change > limit, and place < min_tokens where fewer than min_tokens are. Source: VideoLLaMA 3 §2.2."""
    frame = tl.program_id(0).to(tl.int64)
    line = table + frame * TILE_COLUMNS
    limit = tl.load(limits + frame)
    num_places = _load_num_places(line)
    start = tl.load(line + TOKEN_START) + tl.load(line + FIRST) * num_places
    block = tl.arange(0, BLOCK_TOKENS)
    num_changed = tl.full((), 0, tl.int32)
    for first in range(0, num_places, BLOCK_TOKENS):
        values = tl.load(change + start + first + block, mask=first + block < num_places, other=-1)
        num_changed += tl.sum((values > limit).to(tl.int32))
    num_forced = tl.where(num_changed < min_tokens, min_tokens, 0)
    num_kept = tl.full((), 0, tl.int32)
    for first in range(0, num_places, BLOCK_TOKENS):
        place = first + block
        values = tl.load(change + start + place, mask=place < num_places, other=-1)
        keep = ((values > limit) | (place < num_forced)) & (place < num_places)
        tl.store(keep_out + start + place, keep, mask=place < num_places)
        num_kept += tl.sum(keep.to(tl.int32))
    tl.store(counts_out + frame, num_kept)


@triton.jit
def _count_above(change, num_tokens, cut, BLOCK_TOKENS: tl.constexpr):
    count = tl.full((), 0, tl.int32)
    for first in range(0, num_tokens, BLOCK_TOKENS):
        token = first + tl.arange(0, BLOCK_TOKENS)
        values = tl.load(change + token, mask=token < num_tokens, other=-1)
        count += tl.sum((values > cut).to(tl.int32))
    return count


@triton.jit
def _budget_kernel(
    change, table, keep_out, counts_out, token_budget,
    CHANGE_BITS: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
):  # fmt: skip
    """One item: the smallest cut that at most `token_budget` changes are above, digit by digit; then in order what is above the cut
    and the first of those at the cut until the budget is full. What stays always is above every cut."""
    line = table + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    num_frames = tl.load(line + FRAMES)
    num_places = _load_num_places(line)
    num_tokens = num_frames * num_places
    start = tl.load(line + TOKEN_START)
    cut = tl.full((), (1 << CHANGE_BITS) - 1, tl.int32)
    for digit in range(CHANGE_BITS):
        lower = cut - ((1 << (CHANGE_BITS - 1)) >> digit)
        cut = tl.where(_count_above(change + start, num_tokens, lower, BLOCK_TOKENS) <= token_budget, lower, cut)
    num_above = _count_above(change + start, num_tokens, cut, BLOCK_TOKENS)
    num_equal = token_budget - num_above  # to keep of those at the cut
    first_count = counts_out + tl.load(line + FRAME_START)
    for frame in range(0, num_frames):
        num_kept = tl.full((), 0, tl.int32)
        for first in range(0, num_places, BLOCK_TOKENS):
            place = first + tl.arange(0, BLOCK_TOKENS)
            token = start + frame * num_places + place
            values = tl.load(change + token, mask=place < num_places, other=-1)
            equal = (values == cut).to(tl.int32)
            keep = (values > cut) | ((equal > 0) & (tl.cumsum(equal, axis=0) <= num_equal))
            tl.store(keep_out + token, keep, mask=place < num_places)
            num_kept += tl.sum(keep.to(tl.int32))
            num_equal -= tl.sum(equal)
        tl.store(first_count + frame, num_kept)


def _launch_threshold(
    change: Tensor, items: Tensor, limits: dict[int, int], num_frames: int, min_tokens: int
) -> tuple[Tensor, Tensor]:
    """One program for each frame."""
    keep_out, counts_out = _empty(change, num_frames)
    if num_frames:
        table = tile_table(items, items[:, FRAMES.value], 1, change.device)
        limit_of_frame = _limit_of_frame(items, limits).to(change.device, non_blocking=True)
        _threshold_kernel[(num_frames,)](
            change, limit_of_frame, table, keep_out, counts_out, min_tokens, **choose(TILES)
        )
    return keep_out, counts_out


def _launch_budget(
    change: Tensor, items: Tensor, patch_size: int, num_frames: int, token_budget: int
) -> tuple[Tensor, Tensor]:
    """One program for each item that has frames."""
    keep_out, counts_out = _empty(change, num_frames)
    if num_frames:
        table = tile_table(items, (items[:, FRAMES.value] > 0).long(), 1, change.device)
        side = patch_size * int(items[:, MERGE.value].max())
        _budget_kernel[(len(table),)](
            change, table, keep_out, counts_out, token_budget,
            CHANGE_BITS=(255 * 3 * side**2).bit_length(), **choose(TILES),
        )  # fmt: skip
    return keep_out, counts_out


def _empty(change: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(change, dtype=torch.bool), change.new_empty(num_frames)


@torch.library.custom_op("apollo_kernels::similarity_keep", mutates_args=())
def _similarity_keep(
    pixels: Tensor, items: Tensor, patch_size: int, num_tokens: int, num_frames: int,
    threshold: float | None, token_budget: int | None, min_tokens: int, last_kept: bool, bfloat16: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    merge_sizes = items[:, MERGE.value].unique().tolist()
    limits = {m: change_limit(threshold or 0.0, patch_size * m, bfloat16) for m in merge_sizes}
    num_forced = 0 if token_budget is None else min_tokens
    change = block_change(pixels, items, patch_size, num_tokens, limits, num_forced, last_kept, bfloat16)
    if token_budget is None:
        keep_changed = _launch_threshold if runs_triton(pixels) else keep_changed_reference
        return keep_changed(change, items, limits, num_frames, min_tokens)
    if runs_triton(pixels):
        return _launch_budget(change, items, patch_size, num_frames, token_budget)
    return keep_most_changed_reference(change, items, num_frames, token_budget)


@_similarity_keep.register_fake
def _(
    pixels: Tensor, items: Tensor, patch_size: int, num_tokens: int, num_frames: int,
    threshold: float | None, token_budget: int | None, min_tokens: int, last_kept: bool, bfloat16: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return pixels.new_empty(num_tokens, dtype=torch.bool), pixels.new_empty(num_frames, dtype=torch.int32)
