"""Change of each visual token of a video since an earlier frame, as the integers behind `similarity_keep`.

V items · F frames · M visual tokens · P places in a frame, one of each visual token · s side in pixels of a place
"""

from collections.abc import Mapping
from itertools import groupby

import torch
import triton
import triton.language as tl
from torch import Tensor

from apollo_kernels.launch import Tiles, choose, runs_triton
from apollo_kernels.layout import (
    COLUMNS,
    FIRST,
    FRAMES,
    MERGE,
    PATCH_START,
    ROWS,
    TILE_COLUMNS,
    TOKEN_START,
    tile_table,
)

ALWAYS = tl.constexpr(2**31 - 1)  # the change of a token that has nothing to be compared with
# bfloat16(p / 127.5 - 1) of every byte p, and every rounded difference of two, is a multiple of this.
BFLOAT16_UNIT = 2.0**-15
FRAMES_AT_A_TIME = 8  # of the definition: what it makes of them stays in a CPU's cache

TILES: Tiles = {  # places of a frame side by side, and frames after the reference that one program walks over
    "cuda": {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 16, "FRAMES_PER_PROGRAM": 16, "num_warps": 16},
    "hip": {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 16, "FRAMES_PER_PROGRAM": 16, "num_warps": 16},
    "interpreter": {"BLOCK_ROWS": 4, "BLOCK_COLUMNS": 4, "FRAMES_PER_PROGRAM": 2, "num_warps": 8},
}
LAST_KEPT_TILES: Tiles = {  # one program walks over all frames, so that there are as many programs as tiles of places
    "cuda": {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 2, "FRAMES_PER_PROGRAM": 1, "num_warps": 4},
    "hip": {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 2, "FRAMES_PER_PROGRAM": 1, "num_warps": 4},
    "interpreter": {"BLOCK_ROWS": 4, "BLOCK_COLUMNS": 4, "FRAMES_PER_PROGRAM": 1, "num_warps": 4},
}


def block_change(
    pixels: Tensor, items: Tensor, patch_size: int, num_tokens: int, limits: dict[int, int], num_forced: int,
    last_kept: bool, bfloat16: bool,
) -> Tensor:  # fmt: skip
    """Return (M,) int32, Σ|Δ| over the 3·s·s bytes of each token; 2^31 - 1 in images, first frames and the first `num_forced`
    places of every frame.

    Δ is taken against the same place in the previous frame; with `last_kept` in the last frame in which that place's change was
    above the limit of its merge size (`limits`, in rising order of sizes), and then no place is forced. With `bfloat16`, Δ is the
    difference of normalised pixels as bfloat16 rounds it, in units of 2^-15.
    """
    measure = _launch if runs_triton(pixels) else block_change_reference
    return measure(pixels, items, patch_size, num_tokens, limits, num_forced, last_kept, bfloat16)


def block_change_reference(
    pixels: Tensor, items: Tensor, patch_size: int, num_tokens: int, limits: dict[int, int], num_forced: int,
    last_kept: bool, bfloat16: bool,
) -> Tensor:  # fmt: skip
    """Reference of the kernel in plain PyTorch: videos of one shape that follow each other are one tensor of frames."""
    change = torch.full((num_tokens,), ALWAYS.value, dtype=torch.int32, device=pixels.device)
    for (is_video, rows, columns, merge_size), run in groupby(items.tolist(), key=_shape):
        if not is_video:
            continue
        videos = torch.tensor(list(run), device=pixels.device)  # (v, 7)
        lengths = videos[:, FRAMES.value]
        num_frames, frame_bytes = int(lengths.sum()), 3 * rows * columns * patch_size**2
        byte, token = int(videos[0, PATCH_START.value]) * 3 * patch_size**2, int(videos[0, TOKEN_START.value])
        frames = pixels[byte : byte + num_frames * frame_bytes].view(
            num_frames, 3, rows * patch_size, columns * patch_size
        )
        num_places = rows * columns // merge_size**2
        out = change[token : token + num_frames * num_places].view(num_frames, num_places)
        firsts = lengths.cumsum(dim=0) - lengths  # (v,)
        side = patch_size * merge_size
        if last_kept:
            _change_since_last_kept(frames, firsts, lengths, side, limits[merge_size], bfloat16, out)
        else:
            _change_since_previous(frames, side, bfloat16, out)
        out[firsts] = ALWAYS.value
        out[:, :num_forced] = ALWAYS.value
    return change


def _shape(item: list[int]) -> tuple[int, ...]:
    """Shape of an item: True for a video, rows, columns, merge size."""
    return item[FRAMES.value] > 1, item[ROWS.value], item[COLUMNS.value], item[MERGE.value]


def _change_since_previous(frames: Tensor, side: int, bfloat16: bool, out: Tensor) -> None:
    for first in range(1, len(frames), FRAMES_AT_A_TIME):
        levels = _levels(frames[first - 1 : first + FRAMES_AT_A_TIME], bfloat16)
        out[first : first + FRAMES_AT_A_TIME] = _block_sums(_distance(levels[1:], levels[:-1]), side)


def _change_since_last_kept(
    frames: Tensor, firsts: Tensor, lengths: Tensor, side: int, limit: int, bfloat16: bool, out: Tensor
) -> None:
    """All videos in step. `reference` (v, 3, H, W) holds every place as it was when it last changed by more than the limit."""
    reference = frames.index_select(0, firsts)
    height, width = frames.shape[2:]
    squares = (-1, 3, height // side, side, width)
    for step in range(1, int(lengths.max())):
        running = (lengths > step).nonzero().squeeze(1)  # of the v videos
        now = firsts[running] + step
        new, old = frames.index_select(0, now), reference.index_select(0, running)
        change = _block_sums(_distance(_levels(new, bfloat16), _levels(old, bfloat16)), side)  # (v, P)
        moved = (change > limit).view(-1, height // side, width // side, 1).expand(-1, -1, -1, side)
        moved = moved.reshape(-1, 1, height // side, 1, width).to(torch.uint8).neg_()  # all bits, or none
        old ^= ((new ^ old).view(squares) & moved).view_as(old)
        reference.index_copy_(0, running, old)
        out.index_copy_(0, now, change)


def _levels(frames: Tensor, bfloat16: bool) -> Tensor:
    """The bytes, or what the released models make of them."""
    return frames.float().sub_(127.5).div_(127.5).bfloat16() if bfloat16 else frames


def _distance(new: Tensor, old: Tensor) -> Tensor:
    """|Δ| of every level: uint8 of bytes, int32 in units of 2^-15 of bfloat16 levels."""
    if new.dtype == torch.uint8:
        return torch.maximum(new, old).sub_(torch.minimum(new, old))
    return new.sub(old).abs_().float().div_(BFLOAT16_UNIT).to(torch.int32)


def _block_sums(distance: Tensor, side: int) -> Tensor:
    """(F, P) int32 from (F, 3, H, W). Channels and lines are added in 16 bits where these hold the sums: twice the speed."""
    num_frames, _, height, width = distance.shape
    fits = distance.dtype == torch.uint8 and 255 * 3 * side < 2**15
    red, green, blue = distance.to(torch.int16 if fits else torch.int32).unbind(1)
    lines = (red + green).add_(blue).view(num_frames, height // side, side, width)
    while lines.shape[2] % 2 == 0:
        upper, lower = lines.chunk(2, dim=2)
        lines = upper + lower
    return lines.unflatten(3, (width // side, side)).sum(dim=(2, 4), dtype=torch.int32).flatten(1)


@triton.jit
def _normalised(byte):
    """bfloat16(p / 127.5 - 1) of bytes in int32, held in float32. Centred first, which is exact: 127 lies close to a tie."""
    return ((2 * byte - 255).to(tl.float32) * (1 / 255)).to(tl.bfloat16).to(tl.float32)


@triton.jit
def _word_distance(new, old, BYTES: tl.constexpr, BFLOAT16: tl.constexpr):
    """(places, words) int32: Σ|Δ| over the bytes of each word."""
    total = tl.zeros_like(new)
    for byte in tl.static_range(BYTES):
        new_byte = (new >> (8 * byte)) & 255
        old_byte = (old >> (8 * byte)) & 255
        if BFLOAT16:
            distance = tl.abs(_normalised(new_byte) - _normalised(old_byte)).to(tl.bfloat16).to(tl.float32)
            total += (distance * 32768).to(tl.int32)  # in units of 2^-15
        else:
            total += tl.abs(new_byte - old_byte)
    return total


@triton.jit
def _since_previous(
    pixels, channel, offset, mask, num_steps,
    BYTES: tl.constexpr, BFLOAT16: tl.constexpr, FRAMES_PER_PROGRAM: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """(frames, places) changes of the `num_steps` frames after the one at `pixels`, channel by channel: then only a third of a
    frame's words stays in registers."""
    step = tl.arange(0, FRAMES_PER_PROGRAM)[:, None]
    changes = tl.zeros((FRAMES_PER_PROGRAM, PLACES), tl.int32)
    for colour in range(3):
        old = tl.load(pixels + colour * channel + offset, mask=mask, other=0).to(tl.int32)
        for number in range(0, num_steps):
            new = tl.load(pixels + (3 * number + 3 + colour) * channel + offset, mask=mask, other=0).to(tl.int32)
            change = tl.sum(_word_distance(new, old, BYTES, BFLOAT16), axis=1)
            changes += tl.where(step == number, change[None, :], 0)
            old = new
    return changes


@triton.jit
def _since_last_kept(
    pixels, channel, offset, mask, num_steps, limit, change_out, num_places, is_place,
    BYTES: tl.constexpr, BFLOAT16: tl.constexpr,
):  # fmt: skip
    """Write the changes of the `num_steps` frames after the one at `pixels`. The words of all channels stay in registers: only
    the sum of the three tells a place whether to replace them."""
    red = tl.load(pixels + offset, mask=mask, other=0).to(tl.int32)
    green = tl.load(pixels + channel + offset, mask=mask, other=0).to(tl.int32)
    blue = tl.load(pixels + 2 * channel + offset, mask=mask, other=0).to(tl.int32)
    for number in range(1, num_steps + 1):
        frame = pixels + 3 * number * channel
        new_red = tl.load(frame + offset, mask=mask, other=0).to(tl.int32)
        new_green = tl.load(frame + channel + offset, mask=mask, other=0).to(tl.int32)
        new_blue = tl.load(frame + 2 * channel + offset, mask=mask, other=0).to(tl.int32)
        distance = _word_distance(new_red, red, BYTES, BFLOAT16)
        distance += _word_distance(new_green, green, BYTES, BFLOAT16)
        distance += _word_distance(new_blue, blue, BYTES, BFLOAT16)
        change = tl.sum(distance, axis=1)
        tl.store(change_out + number * num_places, change, mask=is_place)
        moved = (change > limit)[:, None]
        red = tl.where(moved, new_red, red)
        green = tl.where(moved, new_green, green)
        blue = tl.where(moved, new_blue, blue)


@triton.jit
def _change_kernel(
    words, table, change_out, limit, num_forced,
    SIDE: tl.constexpr, MERGE_SIZE: tl.constexpr, BYTES: tl.constexpr, LAST_KEPT: tl.constexpr, BFLOAT16: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, FRAMES_PER_PROGRAM: tl.constexpr, BLOCK_WORDS: tl.constexpr,
):  # fmt: skip
    """Σ|Δ| of some places of one video over some of its frames. Bytes are read once, those of a program's last frame twice, as
    `words` of BYTES bytes: a line of a place is SIDE / BYTES words. Source: VideoLLaMA 3 §2.2."""
    LINE: tl.constexpr = SIDE // BYTES
    PLACES: tl.constexpr = BLOCK_ROWS * BLOCK_COLUMNS
    line = table + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    num_frames = tl.load(line + FRAMES)
    num_rows = tl.load(line + ROWS) // MERGE_SIZE
    num_columns = tl.load(line + COLUMNS) // MERGE_SIZE
    num_places = num_rows * num_columns
    row_tiles, column_tiles = tl.cdiv(num_rows, BLOCK_ROWS), tl.cdiv(num_columns, BLOCK_COLUMNS)
    tile = tl.load(line + FIRST)  # chunk of frames, then rows, then columns
    first_column = tile % column_tiles * BLOCK_COLUMNS
    first_row = tile // column_tiles % row_tiles * BLOCK_ROWS
    reference = tile // (column_tiles * row_tiles) * FRAMES_PER_PROGRAM  # the frame before the first that is compared

    row, column = tl.arange(0, PLACES) // BLOCK_COLUMNS, tl.arange(0, PLACES) % BLOCK_COLUMNS  # (P,)
    is_place = (first_row + row < num_rows) & (first_column + column < num_columns)
    place = (first_row + row) * num_columns + first_column + column  # in its frame
    change = change_out + tl.load(line + TOKEN_START) + reference * num_places + place
    first = tl.full((PLACES,), ALWAYS, tl.int32)
    tl.store(change, first, mask=is_place & (reference == 0))

    word = tl.arange(0, BLOCK_WORDS)  # of one channel of a place, line after line
    width = (num_columns * LINE).to(tl.int32)  # words in a line of the frame
    offset = (row * SIDE * width + column * LINE)[:, None] + (word // LINE * width + word % LINE)[None, :]  # (P, words)
    mask = is_place[:, None] & (word < SIDE * LINE)[None, :] & (num_frames > 1)
    channel = num_places * SIDE * LINE  # words
    start = tl.load(line + PATCH_START) * (3 * SIDE * SIDE // (MERGE_SIZE * MERGE_SIZE) // BYTES)
    pixels = words + start + reference * 3 * channel + first_row * SIDE * width + first_column * LINE
    if LAST_KEPT:
        _since_last_kept(
            pixels, channel, offset, mask, num_frames - 1, limit, change, num_places, is_place, BYTES, BFLOAT16
        )
    else:
        num_steps = tl.minimum(num_frames - 1 - reference, FRAMES_PER_PROGRAM)
        changes = _since_previous(pixels, channel, offset, mask, num_steps, BYTES, BFLOAT16, FRAMES_PER_PROGRAM, PLACES)
        changes = tl.where((place < num_forced)[None, :], ALWAYS, changes)
        step = tl.arange(0, FRAMES_PER_PROGRAM)[:, None]
        tl.store(change[None, :] + (1 + step) * num_places, changes, mask=is_place[None, :] & (step < num_steps))


def _launch(
    pixels: Tensor, items: Tensor, patch_size: int, num_tokens: int, limits: dict[int, int], num_forced: int,
    last_kept: bool, bfloat16: bool,
) -> Tensor:  # fmt: skip
    """One launch for each merge size, of which a batch has one or two; their results are put in order."""
    num_tokens_of = (
        items[:, FRAMES.value] * items[:, ROWS.value] * items[:, COLUMNS.value] // items[:, MERGE.value] ** 2
    )
    tiles = choose(LAST_KEPT_TILES if last_kept else TILES)
    parts = []
    for merge_size, limit in limits.items():
        is_chosen = items[:, MERGE.value] == merge_size
        chosen, num_tokens_here = items[is_chosen], num_tokens_of[is_chosen]
        chosen[:, TOKEN_START.value] = num_tokens_here.cumsum(dim=0) - num_tokens_here
        change_out = torch.empty(int(num_tokens_here.sum()), dtype=torch.int32, device=pixels.device)
        table = tile_table(chosen, _num_programs(chosen, merge_size, last_kept, tiles), 1, pixels.device)
        side = patch_size * merge_size
        word = _word(pixels, patch_size, side)
        if len(table):
            _change_kernel[(len(table),)](
                pixels.view(word), table, change_out, limit, num_forced,
                SIDE=side, MERGE_SIZE=merge_size, BYTES=word.itemsize, LAST_KEPT=last_kept, BFLOAT16=bfloat16,
                BLOCK_WORDS=triton.next_power_of_2(side * side // word.itemsize), **tiles,
            )  # fmt: skip
        parts.append(change_out)
    if len(parts) == 1:
        return parts[0]
    order = torch.repeat_interleave(items[:, MERGE.value], num_tokens_of).argsort(stable=True)  # (M,)
    change = torch.empty(num_tokens, dtype=torch.int32, device=pixels.device)
    for part, tokens in zip(parts, order.to(pixels.device).split([len(part) for part in parts]), strict=True):
        change[tokens] = part
    return change


def _num_programs(items: Tensor, merge_size: int, last_kept: bool, tiles: Mapping[str, int]) -> Tensor:
    """(V,) chunks of frames after the first, at least one, times tiles of places."""
    frames = items[:, FRAMES.value]
    steps = torch.ones_like(frames) if last_kept else (frames - 1).clamp(min=1)
    chunks = _cdiv(steps, tiles["FRAMES_PER_PROGRAM"]) * (frames > 0)
    rows = _cdiv(items[:, ROWS.value] // merge_size, tiles["BLOCK_ROWS"])
    return chunks * rows * _cdiv(items[:, COLUMNS.value] // merge_size, tiles["BLOCK_COLUMNS"])


def _cdiv(dividend: Tensor, divisor: int) -> Tensor:
    return (dividend + divisor - 1) // divisor


def _word(pixels: Tensor, patch_size: int, side: int) -> torch.dtype:
    """The widest integer at whose multiples the lines of all places begin: 4 bytes where s is a multiple of 4."""
    if patch_size % 2 or pixels.data_ptr() % 4:  # with an even patch every item begins at a multiple of 12 bytes
        return torch.uint8
    return torch.int32 if side % 4 == 0 else torch.int16
