"""Layout and tile_table against tables written by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apollo_kernels.layout import Layout, tile_table
from tests.kernels.cases import SETTINGS


def test_where_each_item_lies() -> None:
    """A video of three frames of 2×4 patches in tokens of 2×2, nothing, and an image of 1×3 patches."""
    sizes = torch.tensor([[3, 4, 8], [0, 6, 6], [1, 2, 6]])
    layout = Layout.of(sizes, torch.tensor([2, 1, 1]), patch_size=2)
    assert layout.items.tolist() == [
        [0, 0, 0, 3, 2, 4, 2],  # first patch, token and frame; frames, rows and columns of patches, merge size
        [24, 6, 3, 0, 3, 3, 1],
        [24, 6, 3, 1, 1, 3, 1],
    ]
    assert (layout.num_patches, layout.num_tokens, layout.num_frames) == (27, 9, 4)
    assert layout.num_bytes == int(sizes.prod(dim=1).sum()) * 3


def test_no_items() -> None:
    layout = Layout.of(torch.empty(0, 3, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 14)
    assert layout.items.shape == (0, 7)
    assert (layout.num_patches, layout.num_tokens, layout.num_frames, layout.num_bytes) == (0, 0, 0, 0)
    layout.require_pixels(torch.empty(0, dtype=torch.uint8))


@pytest.mark.parametrize(("height", "width", "merge_size"), [(4, 6, 2), (6, 4, 2), (3, 4, 1), (4, 3, 1)])
def test_a_size_that_is_no_multiple_is_refused(height: int, width: int, merge_size: int) -> None:
    sizes = torch.tensor([[1, 4, 4], [1, height, width]])
    with pytest.raises(ValueError, match=rf"sizes .*{height}, {width}.*\b2 × "):
        Layout.of(sizes, torch.tensor([1, merge_size]), 2)


def test_grids_of_patches_say_the_same_as_sizes() -> None:
    sizes, merge_sizes = torch.tensor([[2, 28, 56], [1, 14, 42]]), torch.tensor([2, 1])
    by_grids = Layout.of_grids(torch.tensor([[2, 2, 4], [1, 1, 3]]), merge_sizes, 14)
    by_sizes = Layout.of(sizes, merge_sizes, 14)
    assert by_grids.items.tolist() == by_sizes.items.tolist()
    assert (by_grids.num_frames, by_grids.num_patches, by_grids.num_tokens) == (3, 19, 7)
    for grid in ([1, 3, 4], [1, 4, 3]):
        with pytest.raises(ValueError, match=r"grids .* multiples of the merge size"):
            Layout.of_grids(torch.tensor([grid]), torch.tensor([2]), 14)


def test_pixels_that_are_not_the_layouts_are_refused() -> None:
    layout = Layout.of(torch.tensor([[1, 2, 4]]), torch.tensor([1]), 2)
    pixels = torch.zeros(24, dtype=torch.uint8)
    layout.require_pixels(pixels)
    for wrong in (pixels.float(), pixels.view(2, 12), pixels.repeat(2)[::2]):
        with pytest.raises(ValueError, match="pixels are contiguous"):
            layout.require_pixels(wrong)
    with pytest.raises(ValueError, match=r"\b23 bytes.*\b24\b"):
        layout.require_pixels(pixels[1:])


def test_tiles_of_five_and_two_rows() -> None:
    items = torch.tensor([[10, 11, 12, 13, 14, 15, 16], [20, 21, 22, 23, 24, 25, 26]])
    table = tile_table(items, torch.tensor([5, 2]), 4, items.device)
    assert table.tolist() == [[*items[0].tolist(), 0], [*items[0].tolist(), 4], [*items[1].tolist(), 0]]


@SETTINGS
@given(st.lists(st.integers(0, 20), max_size=6), st.sampled_from([1, 4, 8]))
def test_tiles_hold_every_row_once(counts: list[int], block: int) -> None:
    items = torch.arange(len(counts))[:, None].expand(-1, 7)
    table = tile_table(items, torch.tensor(counts, dtype=torch.int64), block, torch.device("cpu"))
    assert table.dtype == torch.int64
    tiles = [(item, first) for item, count in enumerate(counts) for first in range(0, count, block)]
    assert table[:, [0, 7]].tolist() == [list(tile) for tile in tiles]
