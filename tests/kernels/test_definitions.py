"""The definitions of the ops against tensors written by hand and loops that share nothing with them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from apollo_kernels import merge_compact, pack_patches, rope_2d, rope_2d_tables, similarity_keep
from tests.tolerances import SUMMATION

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)

items = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2])), min_size=0, max_size=4
)  # frames, rows and columns in merged tokens, merge size


def flat_batch(
    shapes: list[tuple[int, int, int, int]], patch: int, seed: int = 0
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Each item as a tensor (F, 3, H, W), and pixels, sizes and merge sizes as the ops take them."""
    generator = torch.Generator().manual_seed(seed)
    clips = [
        torch.randint(0, 256, (frames, 3, rows * m * patch, columns * m * patch), generator=generator).to(torch.uint8)
        for frames, rows, columns, m in shapes
    ]
    pixels = torch.cat([clip.flatten() for clip in clips]) if clips else torch.empty(0, dtype=torch.uint8)
    sizes = torch.tensor([(len(c), *c.shape[2:]) for c in clips], dtype=torch.int64).reshape(-1, 3)
    return clips, (pixels, sizes, torch.tensor([m for *_, m in shapes], dtype=torch.int64))


def test_pack_patches_orders_blocks() -> None:
    """Each pixel of a 2×4 frame of 1×1 patches holds its raster number: block order reads 0 1 4 5, then 2 3 6 7."""
    pixels = torch.arange(8, dtype=torch.uint8).expand(3, 8).flatten()
    sizes, merge = torch.tensor([[1, 2, 4]]), torch.tensor([2])
    patches, positions = pack_patches(pixels, sizes, merge, 1, mean=0.0, std=1 / 255)
    assert patches[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert positions.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


@SETTINGS
@given(items)
def test_pack_patches_equals_a_loop_over_patches(shapes: list[tuple[int, int, int, int]]) -> None:
    clips, batch = flat_batch(shapes, patch=2)
    patches, positions = pack_patches(*batch, 2)
    rows = []
    for clip, (_, block_rows, block_columns, m) in zip(clips, shapes, strict=True):
        for frame in clip:
            for block in range(block_rows * block_columns):
                for inside in range(m * m):
                    row = block // block_columns * m + inside // m
                    column = block % block_columns * m + inside % m
                    rows.append((row, column, frame[:, row * 2 : row * 2 + 2, column * 2 : column * 2 + 2]))
    assert positions.tolist() == [[row, column] for row, column, _ in rows]
    expected = [(patch.double().flatten() / 255 - 0.5) / 0.5 for _, _, patch in rows]
    assert_close(patches.double(), torch.stack(expected) if rows else torch.empty(0, 12).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rope_turns_each_pair_by_its_angle(dtype: torch.dtype) -> None:
    """Against complex multiplication in float64, channel pairs (i, i + D/2)."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 200, (7, 2), generator=generator)
    q, k = (torch.randn(7, 2, 8, generator=generator).to(dtype) for _ in range(2))
    cos, sin = rope_2d_tables(positions, 8)
    frequencies = torch.tensor([1.0, 1e4**-0.5], dtype=torch.float64)
    angle = torch.cat([positions[:, :1] * frequencies, positions[:, 1:] * frequencies], dim=1)  # (7, 4)
    for rotated, x in zip(rope_2d(q, k, cos, sin), (q, k), strict=True):
        pair = torch.complex(x[..., :4].double(), x[..., 4:].double())
        expected = pair * torch.polar(torch.ones_like(angle), angle)[:, None]
        assert rotated.dtype == dtype
        tolerance = max(SUMMATION[dtype], 1e-5)  # the tables are float32 whatever the dtype: angles up to 200 rad
        assert_close(rotated.double(), torch.cat([expected.real, expected.imag], dim=-1), atol=tolerance * 5, rtol=0)


@SETTINGS
@given(items, st.sampled_from([0.0, 20.0, 84.9, 300.0]), st.sampled_from(["previous", "last_kept"]), st.integers(1, 3))
def test_similarity_keep_equals_a_loop_over_tokens(
    shapes: list[tuple[int, int, int, int]], threshold: float, reference: str, min_tokens: int
) -> None:
    clips, batch = flat_batch(shapes, patch=2)
    keep, counts = similarity_keep(
        *batch, 2, threshold_grey_levels=threshold, reference=reference, min_tokens=min_tokens
    )
    expected: list[list[bool]] = []
    for clip, (frames, rows, columns, m) in zip(clips, shapes, strict=True):
        side = 2 * m
        kept: dict[int, Tensor] = {}
        for f in range(frames):
            corners = [(y * side, x * side) for y in range(rows) for x in range(columns)]
            blocks = [clip[f, :, y : y + side, x : x + side].double() for y, x in corners]
            flags = [f == 0 or (b - kept[i]).abs().mean().item() > threshold for i, b in enumerate(blocks)]
            if sum(flags) < min_tokens:
                flags[:min_tokens] = [True] * len(flags[:min_tokens])
            kept |= {i: b for i, b in enumerate(blocks) if flags[i] or reference == "previous"}
            expected.append(flags)
    assert keep.tolist() == [flag for frame in expected for flag in frame]
    assert counts.tolist() == [sum(frame) for frame in expected]


def test_last_kept_notices_a_slow_drift_that_previous_does_not() -> None:
    """Four frames, each one grey level brighter, threshold 1.5: the third differs by 2 from the first."""
    clip = torch.stack([torch.full((3, 2, 4), 100 + f, dtype=torch.uint8) for f in range(4)])  # two tokens a frame
    batch = (clip.flatten(), torch.tensor([[4, 2, 4]]), torch.tensor([1]))
    keep = {
        reference: similarity_keep(*batch, 2, threshold_grey_levels=1.5, reference=reference)[0]
        .view(4, 2)[:, 1]
        .tolist()
        for reference in ("previous", "last_kept")
    }
    assert keep == {"previous": [True, False, False, False], "last_kept": [True, False, True, False]}


@SETTINGS
@given(items, st.integers(0, 2**31))
def test_merge_compact_equals_a_loop_over_tokens(shapes: list[tuple[int, int, int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.tensor([(f, r * m, c * m) for f, r, c, m in shapes], dtype=torch.int64).reshape(-1, 3)
    merge_sizes = torch.tensor([m for *_, m in shapes], dtype=torch.int64)
    features = torch.randn(int(grid.prod(dim=1).sum()), 5, generator=generator, dtype=torch.float64, requires_grad=True)
    expected, start = [], 0
    for f, r, c, m in shapes:
        for _ in range(f * r * c):
            expected.append(features[start : start + m * m].sum(dim=0) / (m * m))
            start += m * m
    all_tokens = torch.stack(expected) if expected else features[:0]
    assert_close(merge_compact(features, grid, merge_sizes), all_tokens, atol=1e-12, rtol=0)
    keep = (torch.rand(len(expected), generator=generator) < 0.5).nonzero().squeeze(1)
    weights = torch.randn(len(keep), 5, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((merge_compact(features, grid, merge_sizes, keep) * weights).sum(), features)
    theirs = torch.autograd.grad((all_tokens[keep] * weights).sum(), features)
    assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_an_unknown_reference_is_refused() -> None:
    _, batch = flat_batch([(2, 1, 1, 1)], patch=2)
    with pytest.raises(ValueError, match="previous, last_kept, not 'next'"):
        similarity_keep(*batch, 2, threshold_grey_levels=1.0, reference="next")
