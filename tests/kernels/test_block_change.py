"""The integers behind similarity_keep: the Triton kernel and its definition against sums over one token at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apollo_kernels.block_change import ALWAYS, _change_kernel, block_change
from apollo_kernels.layout import tile_table
from tests.kernels.cases import (
    AWKWARD,
    PATCH,
    SETTINGS,
    Shape,
    batch_shapes,
    flatten,
    make_clips,
    make_layout,
    watched,
)
from verification.far import far

MANY = "hundreds of items"  # goes through test_similarity_keep.py: the interpreter takes its time
MODES = pytest.mark.parametrize(("last_kept", "bfloat16"), [(False, False), (True, False), (False, True), (True, True)])


def half_moved(limits: dict[int, int], bfloat16: bool) -> dict[int, int]:
    """Limits in the middle of what random pixels change by: 85 grey levels of 127.5, in the units of the mode."""
    return {m: limit * (257 if bfloat16 else 1) for m, limit in limits.items()}


LIMITS = {m: 85 * 3 * (PATCH * m) ** 2 for m in (1, 2, 3)}


def by_token(
    clips: list[Tensor], shapes: list[Shape], limits: dict[int, int], forced: int, last_kept: bool, bfloat16: bool,
    patch: int = PATCH,
) -> list[int]:  # fmt: skip
    """Frame after frame, token after token, in Python's integers."""
    changes = []
    for clip, (frames, rows, columns, m) in zip(clips, shapes, strict=True):
        side = patch * m
        kept: dict[int, Tensor] = {}
        for frame in range(frames):
            for place in range(rows * columns):
                y, x = place // columns * side, place % columns * side
                block = clip[frame, :, y : y + side, x : x + side]
                change = ALWAYS.value if frame == 0 else distance(block, kept[place], bfloat16)
                if frame == 0 or not last_kept or change > limits[m]:
                    kept[place] = block
                changes.append(ALWAYS.value if place < forced else change)
    return changes


def distance(new: Tensor, old: Tensor, bfloat16: bool) -> int:
    if not bfloat16:
        return int(np.abs(new.numpy().astype(np.int64) - old.numpy().astype(np.int64)).sum())
    new, old = (((block.double() * (1 / 255)).float() - 0.5) / 0.5 for block in (new, old))  # as image processors do
    new, old = new.to(torch.bfloat16), old.to(torch.bfloat16)
    return int(((new - old).abs().double() * 2**15).sum())


def measured(
    shapes: list[Shape], limits: dict[int, int], forced: int, last_kept: bool, bfloat16: bool, tiles: str | None,
    clips: list[Tensor], patch: int = PATCH, orders: tuple[int, ...] = (1, 2),
) -> list[int]:  # fmt: skip
    layout, pixels = make_layout(shapes, patch), flatten(clips)
    limits = {m: limit for m, limit in limits.items() if m in {m for *_, m in shapes}}

    def run() -> Tensor:
        return block_change(pixels, layout.items, patch, layout.num_tokens, limits, forced, last_kept, bfloat16)

    change = watched(run, tiles, orders) if tiles else run()
    assert change.dtype == torch.int32
    return change.tolist()


@MODES
def test_every_byte_against_some(last_kept: bool, bfloat16: bool) -> None:
    """A byte of 127, which is close to a tie of bfloat16, and others become every byte, each in a place of its own."""
    shape, limits = [(2, 16, 16, 1)], {1: 0}
    for first in (127, 0, 37, 128, 255):
        clip = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        clip[0, 1, 1::2, 1::2] = first
        clip[1, 1, 1::2, 1::2] = torch.arange(256).view(16, 16)
        expected = by_token([clip], shape, limits, 0, last_kept, bfloat16)
        assert measured(shape, limits, 0, last_kept, bfloat16, None, [clip]) == expected
        if first == 127:
            assert measured(shape, limits, 0, last_kept, bfloat16, "interpreter", [clip], orders=(1,)) == expected


@MODES
@SETTINGS
@given(batch_shapes, st.integers(0, 3), st.integers(0, 2**31))
def test_the_definition_equals_sums_over_tokens(
    last_kept: bool, bfloat16: bool, shapes: list[Shape], forced: int, seed: int
) -> None:
    clips, limits = make_clips(shapes, seed=seed), half_moved(LIMITS, bfloat16)
    expected = by_token(clips, shapes, limits, forced, last_kept, bfloat16)
    assert measured(shapes, limits, forced, last_kept, bfloat16, None, clips) == expected


@MODES
@settings(SETTINGS, max_examples=6)
@given(batch_shapes, st.integers(0, 2**31))
def test_the_kernel_equals_sums_over_tokens_of_any_batch(
    last_kept: bool, bfloat16: bool, shapes: list[Shape], seed: int
) -> None:
    clips, limits = make_clips(shapes, seed=seed), half_moved(LIMITS, bfloat16)
    expected = by_token(clips, shapes, limits, 0, last_kept, bfloat16)
    assert measured(shapes, limits, 0, last_kept, bfloat16, "interpreter", clips) == expected


@MODES
def test_several_videos_of_one_shape_and_of_different_lengths(last_kept: bool, bfloat16: bool) -> None:
    shapes = [(5, 2, 3, 2), (2, 2, 3, 2), (19, 2, 3, 2), (1, 2, 3, 2), (4, 2, 3, 2), (3, 3, 2, 2)]
    clips, limits = make_clips(shapes), half_moved(LIMITS, bfloat16)
    expected = by_token(clips, shapes, limits, 0, last_kept, bfloat16)
    assert measured(shapes, limits, 0, last_kept, bfloat16, None, clips) == expected


@MODES
@pytest.mark.parametrize("name", [name for name in AWKWARD if name != MANY])
def test_the_kernel_equals_sums_over_tokens(name: str, last_kept: bool, bfloat16: bool) -> None:
    shapes = AWKWARD[name]
    clips, limits, forced = make_clips(shapes), half_moved(LIMITS, bfloat16), 0 if last_kept else 1
    expected = by_token(clips, shapes, limits, forced, last_kept, bfloat16)
    assert measured(shapes, limits, forced, last_kept, bfloat16, "interpreter", clips) == expected


@pytest.mark.parametrize("last_kept", [False, True])
def test_tiles_that_end_inside_rows_columns_and_chunks_of_frames(last_kept: bool) -> None:
    """5 × 6 places in tiles of 4 × 4, 6 frames in chunks of 2 after the first; 3 forced places."""
    shapes, forced = [(6, 5, 6, 1), (2, 1, 5, 2)], 0 if last_kept else 3
    clips = make_clips(shapes)
    expected = by_token(clips, shapes, LIMITS, forced, last_kept, False)
    assert measured(shapes, LIMITS, forced, last_kept, False, "interpreter", clips) == expected


@pytest.mark.parametrize("patch", [1, 3])
def test_odd_patches_are_read_byte_by_byte(patch: int) -> None:
    shapes = [(2, 1, 3, 1), (3, 2, 2, 2)]
    clips = make_clips(shapes, patch)
    limits = {1: 0, 2: 0}
    expected = by_token(clips, shapes, limits, 0, False, False, patch)
    assert measured(shapes, limits, 0, False, False, "interpreter", clips, patch) == expected
    assert measured(shapes, limits, 0, False, False, None, clips, patch) == expected


def test_pixels_that_do_not_begin_at_a_multiple_of_four() -> None:
    shapes = [(2, 1, 2, 2)]
    layout, clips = make_layout(shapes), make_clips(shapes)
    pixels = torch.cat([torch.zeros(1, dtype=torch.uint8), flatten(clips)])[1:]
    assert pixels.data_ptr() % 2
    change = watched(lambda: block_change(pixels, layout.items, PATCH, layout.num_tokens, {2: 0}, 0, False, False))
    assert change.tolist() == by_token(clips, shapes, {2: 0}, 0, False, False)


@pytest.mark.parametrize("tiles", ["cuda", "hip"])
@MODES
def test_production_tiles_at_the_models_sizes(last_kept: bool, bfloat16: bool, tiles: str) -> None:
    """Patch 14: words of 4 bytes for merge size 2, of 2 bytes for 1."""
    shapes = [(2, 1, 3, 2), (3, 1, 1, 1)] if last_kept else [(18, 1, 2, 1), (2, 1, 17, 2)]
    clips = make_clips(shapes, 14)
    limits = half_moved({m: 85 * 3 * (14 * m) ** 2 for m in (1, 2)}, bfloat16)
    expected = by_token(clips, shapes, limits, 0, last_kept, bfloat16, 14)
    assert measured(shapes, limits, 0, last_kept, bfloat16, tiles, clips, 14) == expected
    assert measured(shapes, limits, 0, last_kept, bfloat16, None, clips, 14) == expected


def test_by_hand() -> None:
    """Two places of 2 × 2 pixels, three frames; a byte of red in the left one, of blue in the right one."""
    clip = torch.zeros(3, 3, 2, 4, dtype=torch.uint8)
    clip[:, 0, 1, 0] = torch.tensor([10, 13, 12])
    clip[:, 2, 0, 3] = torch.tensor([200, 200, 0])
    always = ALWAYS.value
    for tiles in (None, "interpreter"):
        assert measured([(3, 1, 2, 1)], {1: 0}, 0, False, False, tiles, [clip]) == [always, always, 3, 0, 1, 200]
        assert measured([(3, 1, 2, 1)], {1: 3}, 0, True, False, tiles, [clip]) == [always, always, 3, 0, 2, 200]
        assert measured([(3, 1, 2, 1)], {1: 0}, 1, False, False, tiles, [clip]) == [always] * 3 + [0, always, 200]


@pytest.mark.interpreter
@pytest.mark.parametrize("last_kept", [False, True])
def test_an_item_behind_two_billion_elements(last_kept: bool) -> None:
    """Pixels, tokens and lines of the table whose numbers need 64 bits, of which only the last item's are there."""
    shapes = [(3, 2, 2, 1)]
    clips, items = make_clips(shapes), make_layout(shapes).items.clone()
    items[:, 0], items[:, 1] = 2**31 // 4 * 3, 2**32 + 8  # PATCH_START, TOKEN_START
    table = tile_table(items, torch.tensor([1]), 1, torch.device("cpu"))
    words, change_out = flatten(clips).view(torch.int16), torch.empty(12, dtype=torch.int32)
    program = 2**29
    with far(program, words=int(items[0, 0]) * 6, change_out=int(items[0, 1]), table=program * 8):
        _change_kernel[(1,)](
            words, table, change_out, 1020, 0, SIDE=2, MERGE_SIZE=1, BYTES=2, LAST_KEPT=last_kept, BFLOAT16=False,
            BLOCK_ROWS=2, BLOCK_COLUMNS=2, FRAMES_PER_PROGRAM=4, BLOCK_WORDS=2,
        )  # fmt: skip
    assert change_out.tolist() == by_token(clips, shapes, {1: 1020}, 0, last_kept, False)
