"""Kept tokens: the Triton kernels and their references against loops over tokens."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from apollo_kernels import similarity_keep
from apollo_kernels.block_change import ALWAYS
from apollo_kernels.layout import Layout, tile_table
from apollo_kernels.similarity_keep import (
    _budget_kernel,
    _launch_budget,
    _launch_threshold,
    _similarity_keep,
    _threshold_kernel,
    change_limit,
    keep_changed_reference,
    keep_most_changed_reference,
)
from tests.kernels.cases import (
    AWKWARD,
    PATCH,
    SETTINGS,
    Shape,
    batch_shapes,
    flatten,
    make_clips,
    make_layout,
    opcheck,
    watched,
)
from verification.far import far

MANY = "hundreds of items"
LIMITS = {1: 3, 2: 4, 3: 5}


def by_token(
    clips: list[Tensor], shapes: list[Shape], threshold: float, reference: str, min_tokens: int
) -> list[list[bool]]:
    """Of each frame, what is kept: mean |Δ| in float64 against the frame that the place was last kept in for its change."""
    expected: list[list[bool]] = []
    for clip, (frames, rows, columns, m) in zip(clips, shapes, strict=True):
        side = PATCH * m
        kept: dict[int, Tensor] = {}
        for f in range(frames):
            corners = [(y * side, x * side) for y in range(rows) for x in range(columns)]
            blocks = [clip[f, :, y : y + side, x : x + side].double() for y, x in corners]
            flags = [f == 0 or (b - kept[i]).abs().mean().item() > threshold for i, b in enumerate(blocks)]
            kept |= {i: b for i, b in enumerate(blocks) if flags[i] or reference == "previous"}
            expected.append(with_minimum(flags, min_tokens))
    return expected


def with_minimum(flags: list[bool], min_tokens: int) -> list[bool]:
    return [flag or i < min_tokens for i, flag in enumerate(flags)] if sum(flags) < min_tokens else flags


def best(changes: list[list[int]], budget: int, min_tokens: int) -> list[list[bool]]:
    """Of one video's frames: first what must stay, then one token at a time the most changed, of equals the earliest."""
    kept = [[f == 0 or place < min_tokens for place in range(len(row))] for f, row in enumerate(changes)]
    while sum(map(sum, kept)) < min(budget, sum(map(len, changes))):
        left = [(-c, f, p) for f, row in enumerate(changes) for p, c in enumerate(row) if not kept[f][p]]
        _, f, p = min(left)
        kept[f][p] = True
    return kept


def assert_kept(result: tuple[Tensor, Tensor], expected: list[list[bool]]) -> None:
    counts = [sum(frame) for frame in expected]
    keep_mask, frame_counts = result
    assert keep_mask.tolist() == [flag for frame in expected for flag in frame]
    assert frame_counts.tolist() == counts
    assert [tensor.dtype for tensor in result] == [torch.bool, torch.int32]


def random_changes(shapes: list[Shape], min_tokens: int, seed: int) -> tuple[Layout, Tensor, list[list[list[int]]]]:
    """Few different changes, so that many are equal to a limit or to each other: (M,), and by item and frame."""
    layout = make_layout(shapes)
    generator = torch.Generator().manual_seed(seed)
    change = torch.randint(0, 9, (layout.num_tokens,), generator=generator, dtype=torch.int32)
    by_item, start = [], 0
    for frames, rows, columns, _ in shapes:
        here = change[start : start + frames * rows * columns].view(frames, rows * columns)
        here[:1] = ALWAYS.value
        here[:, :min_tokens] = ALWAYS.value
        by_item.append(here.tolist())
        start += here.numel()
    return layout, change, by_item


@pytest.mark.parametrize("by_triton", [False, True])
@SETTINGS
@given(batch_shapes, st.integers(0, 4), st.integers(0, 2**31))
def test_changes_above_the_limit(by_triton: bool, shapes: list[Shape], min_tokens: int, seed: int) -> None:
    layout, change, by_item = random_changes(shapes, 0, seed)
    expected = [
        with_minimum([c > LIMITS[m] for c in frame], min_tokens)
        for item, (*_, m) in zip(by_item, shapes, strict=True)
        for frame in item
    ]
    arguments = change, layout.items, LIMITS, layout.num_frames, min_tokens
    keep, counts = watched(lambda: _launch_threshold(*arguments)) if by_triton else keep_changed_reference(*arguments)
    assert keep.tolist() == [flag for frame in expected for flag in frame]
    assert counts.tolist() == [sum(frame) for frame in expected]


@pytest.mark.parametrize("by_triton", [False, True])
@SETTINGS
@given(batch_shapes, st.integers(1, 20), st.integers(0, 4), st.integers(0, 2**31))
def test_the_most_changed(by_triton: bool, shapes: list[Shape], budget: int, min_tokens: int, seed: int) -> None:
    layout, change, by_item = random_changes(shapes, min_tokens, seed)
    expected = [frame for item in by_item for frame in best(item, budget, min_tokens)]
    if by_triton:
        keep, counts = watched(lambda: _launch_budget(change, layout.items, PATCH, layout.num_frames, budget))
    else:
        keep, counts = keep_most_changed_reference(change, layout.items, layout.num_frames, budget)
    assert keep.tolist() == [flag for frame in expected for flag in frame]
    assert counts.tolist() == [sum(frame) for frame in expected]


@pytest.mark.parametrize(
    ("tiles", "shape", "minimum"),
    [("interpreter", (3, 4, 5, 1), 18), ("cuda", (2, 44, 25, 1), 1030), ("hip", (2, 44, 25, 1), 1030)],
)
def test_frames_of_more_tokens_than_a_tile(tiles: str, shape: Shape, minimum: int) -> None:
    """20 places in tiles of 16, 1100 in tiles of 1024: the minimum, the budget and equal changes reach into the second tile."""
    layout, change, _ = random_changes([shape], 0, 0)
    num_places = layout.num_tokens // shape[0]
    change[num_places:].clamp_(max=3)  # all but the last few at most at the limit
    change[-3:] = 4
    change[num_places + 10 : num_places + 12] = 4  # in the first tile of the second frame
    frames = change.view(shape[0], -1).tolist()
    for num_least in (minimum, 2):
        expected = [with_minimum([c > 3 for c in frame], num_least) for frame in frames]
        keep, counts = watched(
            partial(_launch_threshold, change, layout.items, {1: 3}, layout.num_frames, num_least), tiles
        )
        assert keep.tolist() == [flag for frame in expected for flag in frame]
        assert counts.tolist() == [sum(frame) for frame in expected]
    for budget in (layout.num_tokens - 2, num_places + 2, layout.num_tokens * 2 // 3):
        run = partial(_launch_budget, change, layout.items, PATCH, layout.num_frames, budget)
        keep, counts = watched(run, tiles)
        expected_keep, expected_counts = keep_most_changed_reference(change, layout.items, layout.num_frames, budget)
        assert keep.tolist() == expected_keep.tolist()
        assert counts.tolist() == expected_counts.tolist()


def test_changes_of_every_number_of_bits() -> None:
    """The cut lies at each power of two and next to it, up to the largest change of a token of 2×2 pixels, 3060."""
    values = sorted({min(2**bit + step, 3060) for bit in range(12) for step in (-1, 0, 1)})
    shapes = [(2, 1, len(values), 1)]
    layout = make_layout(shapes)
    change = torch.tensor([ALWAYS.value] * len(values) + values, dtype=torch.int32)
    for budget in range(len(values), 2 * len(values), 6):
        expected = best([[ALWAYS.value] * len(values), values], budget, 0)
        keep, _ = watched(partial(_launch_budget, change, layout.items, PATCH, 2, budget))
        assert keep.view(2, -1).tolist() == expected


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@SETTINGS
@given(batch_shapes, st.sampled_from([0.0, 20.0, 84.9, 300.0]), st.integers(0, 3))
def test_thresholds_equal_a_loop_over_tokens(
    reference: str, shapes: list[Shape], threshold: float, min_tokens: int
) -> None:
    clips = make_clips(shapes)
    options = {"threshold_grey_levels": threshold, "reference": reference, "min_tokens": min_tokens}
    result = similarity_keep(flatten(clips), make_layout(shapes), **options)
    assert_kept(result, by_token(clips, shapes, threshold, reference, min_tokens))


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("name", [name for name in AWKWARD if name != MANY])
def test_awkward_batches(name: str, reference: str) -> None:
    shapes, clips = AWKWARD[name], make_clips(AWKWARD[name])
    layout, pixels = make_layout(shapes), flatten(clips)
    result = watched(
        lambda: similarity_keep(pixels, layout, threshold_grey_levels=84.9, reference=reference, min_tokens=2)
    )
    assert_kept(result, by_token(clips, shapes, 84.9, reference, 2))
    kept = watched(lambda: similarity_keep(pixels, layout, token_budget=9))
    for ours, definition in zip(kept, similarity_keep(pixels, layout, token_budget=9), strict=True):
        assert_close(ours, definition)


def test_by_hand() -> None:
    """Places 0 and 1 of four frames: red grows by one in place 1, blue of place 0 jumps in the last frame."""
    clip = torch.zeros(4, 3, 2, 4, dtype=torch.uint8)
    clip[:, 0, :, 2:] = torch.arange(4).view(4, 1, 1)
    clip[3, 2, 0, 0] = 12
    layout = make_layout([(4, 1, 2, 1)])

    def kept(**options: object) -> list[list[bool]]:
        definition = similarity_keep(clip.flatten(), layout, **options)
        kernel = watched(lambda: similarity_keep(clip.flatten(), layout, **options))
        assert kernel[0].tolist() == definition[0].tolist()
        return definition[0].view(4, 2).int().tolist()

    assert kept(threshold_grey_levels=0.5, min_tokens=0) == [[1, 1], [0, 0], [0, 0], [1, 0]]
    assert kept(threshold_grey_levels=0.5) == [[1, 1], [1, 0], [1, 0], [1, 0]]
    assert kept(threshold_grey_levels=0.5, reference="last_kept", min_tokens=0) == [[1, 1], [0, 0], [0, 1], [1, 0]]
    assert kept(threshold_grey_levels=0.3, min_tokens=2) == [[1, 1], [1, 1], [1, 1], [1, 1]]
    assert kept(token_budget=4, min_tokens=0) == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert kept(token_budget=6, min_tokens=1) == [[1, 1], [1, 1], [1, 0], [1, 0]]


def test_a_token_kept_for_the_minimum_is_not_what_later_ones_are_compared_with() -> None:
    """One place, 0 1 2 3 grey levels, threshold 1.5: frame 1 stays for the minimum, frame 2 because it is 2 from frame 0."""
    clip = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 4).clone()
    result = similarity_keep(
        clip.flatten(), make_layout([(4, 1, 2, 1)]), threshold_grey_levels=1.5, reference="last_kept"
    )
    assert result[0].view(4, 2).int().tolist() == [[1, 1], [1, 0], [1, 1], [1, 0]]
    assert result[1].tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize(
    ("threshold", "side", "limit"),
    [(0.05, 28, 117), (0.05, 14, 29), (0.0, 28, 0), (0.29, 10, 87), (0.3, 10, 90), (255.0, 2, 3060), (1e30, 2, 3060)],
)
def test_limits(threshold: float, side: int, limit: int) -> None:
    assert change_limit(threshold, side, bfloat16=False) == limit


@pytest.mark.parametrize("side", [2, 3, 14, 28])
@pytest.mark.parametrize("threshold", [0.05, 0.29, 1 / 3, 5.8])
def test_a_limit_is_the_largest_sum_whose_mean_is_not_above(threshold: float, side: int) -> None:
    limit = change_limit(threshold, side, bfloat16=False)
    assert limit / (3 * side**2) <= threshold < (limit + 1) / (3 * side**2)


def released(new: Tensor, old: Tensor, threshold: float) -> bool:
    """The released code on pixels of one token in bfloat16, its mean as a GPU computes it."""
    x, y = (((pixels.double() / 255).float() - 0.5).div(0.5).bfloat16() for pixels in (new, old))
    difference = (x - y).abs()
    mean = (difference.double().sum().float() * torch.tensor(1 / new.numel())).bfloat16()
    return bool(mean * 255 > threshold)


@pytest.mark.parametrize("side", [14, 28])
def test_bfloat16_decides_like_the_released_code(side: int) -> None:
    """Random tokens whose sums of grey levels lie on both sides of the threshold: where exact arithmetic has 29.4 and 117.6."""
    generator = torch.Generator().manual_seed(side)
    border = 0.05 * 3 * side**2
    frames = torch.randint(0, 256, (2, 3, side, side * 60), generator=generator).to(torch.uint8)
    frames[1] = frames[0]
    for place in range(60):
        values = frames[1, :, :, place * side : (place + 1) * side]
        for _ in range(int(border * (0.9 + place / 300))):
            c, y, x = (int(torch.randint(0, n, (), generator=generator)) for n in values.shape)
            values[c, y, x] += 1 if values[c, y, x] < 128 else -1
    layout = make_layout([(2, 1, 60, side // 14)], patch_size=14)
    tokens = frames.view(2, 3, side, 60, side).permute(0, 3, 1, 2, 4)
    expected = [released(new, old, 0.1) for new, old in zip(tokens[1], tokens[0], strict=True)]
    assert 5 < sum(expected) < 55
    options = {"threshold_grey_levels": 0.05, "min_tokens": 0, "arithmetic": "bfloat16"}
    run = partial(similarity_keep, frames.flatten(), layout, **options)
    assert run()[0][60:].tolist() == expected
    assert watched(run, orders=(1,))[0][60:].tolist() == expected


@pytest.mark.parametrize("side", [2, 14, 28])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 5.8])
def test_a_bfloat16_limit_is_the_last_sum_that_is_dropped(threshold: float, side: int) -> None:
    limit = change_limit(threshold, side, bfloat16=True)
    sums = torch.arange(max(limit - 300, 0), limit + 300)
    means = (sums.float() * 2.0**-15 * torch.tensor(1 / (3 * side**2))).bfloat16()
    assert (means * 255 > 2 * threshold).tolist() == (sums > limit).tolist()


@pytest.mark.parametrize("options", [{"threshold_grey_levels": 84.9}, {"token_budget": 7}])
def test_opcheck(options: dict[str, float | int]) -> None:
    shapes = [(3, 2, 2, 1), (1, 1, 1, 2)]
    layout = make_layout(shapes)
    sizes = (layout.items, PATCH, layout.num_tokens, layout.num_frames)
    threshold, budget = options.get("threshold_grey_levels"), options.get("token_budget")
    opcheck(_similarity_keep, (flatten(make_clips(shapes)), *sizes, threshold, budget, 1, False, False))


@pytest.mark.parametrize("options", [{"threshold_grey_levels": 84.9, "arithmetic": "bfloat16"}, {"token_budget": 7}])
def test_compiles_at_most_twice_over_fifty_batches(options: dict[str, object]) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def run(pixels: Tensor, items: Tensor, num_frames: int, num_patches: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        return similarity_keep(pixels, Layout(items, PATCH, num_frames, num_patches, num_tokens), **options)

    generator = torch.Generator().manual_seed(0)
    for seed in range(50):
        shapes = [
            tuple(torch.randint(1, 5, (4,), generator=generator).clamp(max=torch.tensor([9, 9, 9, 3])).tolist())
            for _ in range(2 + seed % 3)  # a single item is compiled on its own
        ]
        layout, pixels = make_layout(shapes), flatten(make_clips(shapes, seed=seed))
        compiled = run(pixels, layout.items, layout.num_frames, layout.num_patches, layout.num_tokens)
        for ours, eager in zip(compiled, similarity_keep(pixels, layout, **options), strict=True):
            assert_close(ours, eager)
    assert counter.frame_count <= 2


@pytest.mark.interpreter
def test_programs_behind_two_billion_elements() -> None:
    """The third of three frames whose line of the table, limit, count and tokens have numbers of more than 32 bits."""
    layout, change, (item,) = random_changes([(3, 2, 2, 1)], 0, 3)
    items = layout.items.clone()
    items[:, 1], items[:, 2] = 2**32 + 8, 2**29  # TOKEN_START, FRAME_START
    keep, counts = torch.empty(12, dtype=torch.bool), torch.empty(3, dtype=torch.int32)
    starts = {"change": 2**32 + 8, "keep_out": 2**32 + 8, "counts_out": 2**29}
    table, limits = tile_table(items, items[:, 3], 1, torch.device("cpu")), torch.full((3,), 4, dtype=torch.int32)
    with far(2**29, table=2**32, limits=2**29, **starts):
        _threshold_kernel[(3,)](change, limits, table, keep, counts, 1, BLOCK_TOKENS=4)
    assert keep.view(3, 4).tolist() == [with_minimum([c > 4 for c in frame], 1) for frame in item]
    table = tile_table(items, torch.tensor([1]), 1, torch.device("cpu"))
    with far(2**29, table=2**32, **starts):
        _budget_kernel[(1,)](change, table, keep, counts, 7, CHANGE_BITS=4, BLOCK_TOKENS=4)
    assert keep.view(3, 4).tolist() == best(item, 7, 0)


def test_what_it_refuses() -> None:
    layout, pixels = make_layout([(2, 1, 1, 1)]), torch.zeros(24, dtype=torch.uint8)
    for wrong in (torch.zeros(48, dtype=torch.uint8)[::2], pixels.float(), pixels.view(2, 12)):
        with pytest.raises(ValueError, match=r"pixels .*\(B,\) uint8"):
            similarity_keep(wrong, layout, threshold_grey_levels=1.0)
    with pytest.raises(ValueError, match=r"\b23 bytes.*\b24\b"):
        similarity_keep(pixels[:23], layout, threshold_grey_levels=1.0)
    for options, message in [
        ({"threshold_grey_levels": 1.0, "reference": "next"}, r"previous, last_kept, .*'next'"),
        ({"threshold_grey_levels": 1.0, "arithmetic": "float16"}, r"exact, bfloat16, .*'float16'"),
        ({}, r"threshold_grey_levels.*token_budget.* None and None"),
        ({"threshold_grey_levels": 1.0, "token_budget": 3}, r"\b1\.0 and 3$"),
        ({"threshold_grey_levels": -1.0}, r"\b0, .*-1\.0\b"),
        ({"threshold_grey_levels": float("nan")}, r"\b0, .*\bnan\b"),
        ({"token_budget": 0}, r"\b1, .*\b0 "),
        ({"token_budget": 3, "reference": "last_kept"}, r"\b3 .*'last_kept'.*'exact'"),
        ({"token_budget": 3, "arithmetic": "bfloat16"}, r"\b3 .*'previous'.*'bfloat16'"),
        ({"threshold_grey_levels": 1.0, "min_tokens": -1}, r"min_tokens .*\b0, .*-1$"),
    ]:
        with pytest.raises(ValueError, match=message):
            similarity_keep(pixels, layout, **options)
    big = make_layout([(1, 1, 1, 1)], patch_size=105)
    with pytest.raises(ValueError, match=r"105×105 pixels.*\b2167603200\b"):
        similarity_keep(
            torch.zeros(big.num_bytes, dtype=torch.uint8), big, threshold_grey_levels=1.0, arithmetic="bfloat16"
        )


def test_hundreds_of_items() -> None:
    shapes = AWKWARD[MANY]
    clips = make_clips(shapes)
    options = {"threshold_grey_levels": 84.9, "min_tokens": 0}
    result = watched(partial(similarity_keep, flatten(clips), make_layout(shapes), **options), orders=(1,))
    assert_kept(result, by_token(clips, shapes, 84.9, "previous", 0))
