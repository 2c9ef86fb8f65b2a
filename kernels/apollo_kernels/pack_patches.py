"""Pack images and videos of any sizes into one matrix of normalised patches.

V items · F frames of all items · N patches · R×K patches of a frame · m merge size · p patch side in pixels · B bytes
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from apollo_kernels.launch import Tiles, choose, runs_triton
from apollo_kernels.layout import (
    COLUMNS,
    FIRST,
    FRAME_START,
    FRAMES,
    MERGE,
    PATCH_START,
    ROWS,
    TILE_COLUMNS,
    Layout,
    tile_table,
)

TILES: Tiles = {  # rows: patches that one program packs, so many that few of an image line's 32-byte sectors are read twice
    "cuda": {"BLOCK_ROWS": 64, "num_warps": 32},
    "hip": {"BLOCK_ROWS": 64, "num_warps": 16},
    "interpreter": {"BLOCK_ROWS": 1024, "num_warps": 4},
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK = 512  # patches: what the definition gathers, converts and scales before the CPU's cache forgets them


def pack_patches(
    pixels: Tensor, layout: Layout, *, mean: float = 0.5, std: float = 0.5, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (N, 3·p·p), row and column of each in its frame (N, 2) int32, and the number of that frame (N,) int32.

    pixels: (B,) uint8, the items one after the other, each (frames, 3, height, width). A patch is in (channel, y, x) order. Frames
    are counted over all items, so that their number is the segment of attention. There is no gradient.

    Values are (x − 255·mean) · 1/(255·std) in float32, then rounded to `dtype`. For mean 0.5 the difference is exact, which leaves
    at most one unit in the last place to (x / 255 − mean) / std; for other means the rounding of 255·mean is added.

    Rows are in block order: the m×m patches that merge into one visual token follow each other. A frame of 2×4 patches
    with m = 2 holds, at row and column,     0 1 4 5
                                             2 3 6 7

    Source: VideoLLaMA 3, image_processing_videollama3.py; the transformers port's `patchify`.
    """
    layout.require_pixels(pixels)
    if dtype not in DTYPES:
        raise ValueError(f"patches are float32, bfloat16 or float16, not {dtype}")
    return _pack(pixels, layout.items, layout.patch_size, layout.num_patches, mean, std, dtype)


def pack_reference(
    pixels: Tensor, items: Tensor, patch_size: int, num_patches: int, mean: float, std: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of the kernel in plain PyTorch.

    The pixels are runs of p bytes, K in an image line, and a patch is 3·p of them: a gather of runs packs all items at once. The
    numbers of runs are int32, which lasts for 30 GB of pixels at p = 14.
    """
    items = items.to(pixels.device, torch.int32)
    counts = items[:, FRAMES.value : MERGE.value].prod(dim=1)  # (V,) patches
    item = torch.arange(len(items), device=items.device).repeat_interleave(counts, output_size=num_patches)  # (N,)
    frame, row, column, first_run = _places(items.T.index_select(1, item), patch_size)  # (N,) each
    channel = torch.arange(3, dtype=torch.int32, device=items.device)[:, None]
    line = torch.arange(patch_size, dtype=torch.int32, device=items.device)
    rows, columns = items[:, ROWS.value : MERGE.value, None, None].unbind(1)  # (V, 1, 1) each
    steps = ((channel * patch_size * rows + line) * columns).flatten(1)  # (V, 3·p) runs, counted from a patch's first

    runs = pixels.view(-1, patch_size)
    patches = torch.empty(num_patches, 3 * patch_size**2, dtype=dtype, device=pixels.device)
    for out, of_item, first in zip(patches.split(CHUNK), item.split(CHUNK), first_run.split(CHUNK), strict=True):
        index = steps.index_select(0, of_item).add_(first[:, None])  # (CHUNK, 3·p)
        grey = functional.embedding(index.flatten(), runs).view(out.shape)  # a gather, quicker than index_select
        values = out if dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        out.copy_(torch.sub(grey, 255 * mean, out=values).mul_(1 / (255 * std)))
    return patches, torch.stack([row, column], dim=1), frame


def _places(items: Tensor, patch_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frame, row, column and first run of bytes (N,) of every patch, from the line of its item in `items` (7, N)."""
    start, _, first_frame, _, rows, columns, merge = items.unbind(0)
    patch = torch.arange(len(start), dtype=items.dtype, device=items.device) - start  # in its item, then in its
    frame = patch // (rows * columns)  # frame,
    patch = patch - frame * (rows * columns)
    band = patch // (columns * merge)  # row of tokens,
    patch = patch - band * (columns * merge)
    token = patch // (merge * merge)  # and token
    patch = patch - token * (merge * merge)
    row_in_token = patch // merge
    row = band * merge + row_in_token
    column = token * merge + patch - row_in_token * merge
    first_run = (start + frame * (rows * columns)) * (3 * patch_size) + row * (patch_size * columns) + column
    return first_frame + frame, row, column, first_run


@triton.jit
def _pack_kernel(
    pixels, tiles, patches_out, positions_out, segments_out, offset, scale,
    PATCH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_AREA: tl.constexpr,
):  # fmt: skip
    """patch[c, y, x] = (frame[c, row·p + y, column·p + x] − offset) · scale, for BLOCK_ROWS patches of one item. Run-time values
    divide once per patch, not per pixel: within a patch an address is one addition. Runs of 14 bytes start at even addresses, so
    that loads are 2 bytes wide. Source: VideoLLaMA 3, image_processing_videollama3.py."""
    AREA: tl.constexpr = PATCH * PATCH
    tile = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    start = tl.load(tile + PATCH_START)
    columns = tl.load(tile + COLUMNS).to(tl.uint32)
    merge = tl.load(tile + MERGE).to(tl.uint32)
    in_band = columns * merge  # patches of one row of tokens
    in_frame = columns * tl.load(tile + ROWS).to(tl.uint32)
    in_item = in_frame * tl.load(tile + FRAMES).to(tl.uint32)

    patch = tl.load(tile + FIRST).to(tl.uint32) + tl.arange(0, BLOCK_ROWS)  # in its item
    mask = patch < in_item
    out = start + patch  # (BLOCK_ROWS,) int64 of N
    frame = patch // in_frame
    band = patch % in_frame // in_band
    place = patch % in_frame % in_band  # in its row of tokens
    row = band * merge + place % (merge * merge) // merge
    column = place // (merge * merge) * merge + place % merge
    axis = tl.arange(0, 2)
    tl.store(positions_out + out[:, None] * 2 + axis[None, :], tl.join(row, column), mask=mask[:, None])
    tl.store(segments_out + out, tl.load(tile + FRAME_START) + frame, mask=mask)

    line_bytes = columns.to(tl.int64) * PATCH
    channel_bytes = in_frame.to(tl.int64) * AREA
    first_byte = start * (3 * AREA) + frame * (3 * channel_bytes) + row * (line_bytes * PATCH) + column * PATCH
    area = tl.arange(0, BLOCK_AREA)
    inside = area // PATCH * line_bytes + area % PATCH  # (BLOCK_AREA,) bytes from a patch's first
    bulk_mask = mask[:, None] & (area < AREA)[None, :]
    for channel in tl.static_range(3):
        source = pixels + first_byte + channel * channel_bytes
        value = tl.load(source[:, None] + inside[None, :], mask=bulk_mask, other=0).to(tl.float32)
        value = (value - offset) * scale
        target = patches_out + out * (3 * AREA) + channel * AREA
        tl.store(target[:, None] + area[None, :], value.to(patches_out.dtype.element_ty), mask=bulk_mask)


def _launch(
    pixels: Tensor, items: Tensor, patch_size: int, num_patches: int, mean: float, std: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    patches_out, positions_out, segments_out = _outputs(pixels, patch_size, num_patches, dtype)
    if num_patches:
        sizes = choose(TILES)
        counts = items[:, FRAMES.value : MERGE.value].prod(dim=1)
        tiles = tile_table(items, counts, sizes["BLOCK_ROWS"], pixels.device)
        _pack_kernel[(len(tiles),)](
            pixels, tiles, patches_out, positions_out, segments_out, 255 * mean, 1 / (255 * std),
            PATCH=patch_size, BLOCK_AREA=triton.next_power_of_2(patch_size**2), **sizes,
        )  # fmt: skip
    return patches_out, positions_out, segments_out


def _outputs(pixels: Tensor, patch_size: int, num_patches: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return (
        pixels.new_empty(num_patches, 3 * patch_size**2, dtype=dtype),
        pixels.new_empty(num_patches, 2, dtype=torch.int32),
        pixels.new_empty(num_patches, dtype=torch.int32),
    )


@torch.library.custom_op("apollo_kernels::pack_patches", mutates_args=())
def _pack(
    pixels: Tensor, items: Tensor, patch_size: int, num_patches: int, mean: float, std: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    pack = _launch if runs_triton(pixels) else pack_reference
    return pack(pixels, items, patch_size, num_patches, mean, std, dtype)


@_pack.register_fake
def _(
    pixels: Tensor, items: Tensor, patch_size: int, num_patches: int, mean: float, std: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(pixels, patch_size, num_patches, dtype)
