"""Layout of packed items: offsets of patches, visual tokens and frames. Made once a batch and read by every op.

V items (one image or video each) · F frames · N patches · M visual tokens, one per square of m×m patches · T programs of a launch
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

# Columns of `Layout.items`, and behind FIRST those of a tile table.
PATCH_START = tl.constexpr(0)
TOKEN_START = tl.constexpr(1)
FRAME_START = tl.constexpr(2)
FRAMES = tl.constexpr(3)
ROWS = tl.constexpr(4)  # of patches, before merging
COLUMNS = tl.constexpr(5)
MERGE = tl.constexpr(6)  # m
FIRST = tl.constexpr(7)  # of a tile table: the program's first row, counted from its item's first
TILE_COLUMNS = tl.constexpr(8)


@dataclass(frozen=True)
class Layout:
    """Items one after the other, each frame after frame, rows of tokens after rows of tokens.

    It lives on the host, so that no output's shape needs a device read. `of` makes it, or `of_grids`.
    """

    items: Tensor  # (V, 7) int64 on the CPU: the columns above
    patch_size: int  # p, pixels
    num_frames: int
    num_patches: int  # N
    num_tokens: int  # M, before reduction

    @classmethod
    def of(cls, sizes: Tensor, merge_sizes: Tensor, patch_size: int) -> Layout:
        """From sizes (V, 3) frames, height, width in pixels, and merge_sizes (V,), both int64 on the CPU."""
        _, height, width = sizes.unbind(1)
        side = patch_size * merge_sizes
        if bool((height % side).any()) or bool((width % side).any()):
            raise ValueError(
                f"sizes {sizes.tolist()} with merge sizes {merge_sizes.tolist()}: "
                f"height and width must be multiples of {patch_size} × the merge size"
            )
        return cls.of_grids(sizes // torch.tensor([1, patch_size, patch_size]), merge_sizes, patch_size)

    @classmethod
    def of_grids(cls, grids: Tensor, merge_sizes: Tensor, patch_size: int) -> Layout:
        """From grids (V, 3) frames, rows, columns in patches, and merge_sizes (V,), both int64 on the CPU."""
        frames, rows, columns = grids.unbind(1)
        if bool((rows % merge_sizes).any()) or bool((columns % merge_sizes).any()):
            raise ValueError(
                f"grids {grids.tolist()} with merge sizes {merge_sizes.tolist()}: "
                "rows and columns must be multiples of the merge size"
            )
        patches = frames * rows * columns  # (V,)
        tokens = patches // merge_sizes**2
        ends = torch.stack([patches, tokens, frames], dim=1).cumsum(dim=0)  # (V, 3)
        starts = ends - torch.stack([patches, tokens, frames], dim=1)
        items = torch.cat([starts, torch.stack([frames, rows, columns, merge_sizes], dim=1)], dim=1)
        num_patches, num_tokens, num_frames = ends[-1].tolist() if len(items) else (0, 0, 0)
        return cls(items, patch_size, num_frames, num_patches, num_tokens)

    @property
    def num_bytes(self) -> int:
        """Bytes of the flat uint8 pixels: three channels of every pixel."""
        return self.num_patches * 3 * self.patch_size**2

    def require_pixels(self, pixels: Tensor) -> None:
        """Raise ValueError unless these are the flat pixels of the layout."""
        if pixels.dtype != torch.uint8 or pixels.ndim != 1 or not pixels.is_contiguous():
            raise ValueError(
                f"pixels are contiguous (B,) uint8, not {tuple(pixels.shape)} {pixels.dtype}, strides {pixels.stride()}"
            )
        if pixels.numel() != self.num_bytes:
            raise ValueError(f"{pixels.numel()} bytes of pixels for a layout of {self.num_bytes}")


def tile_table(items: Tensor, counts: Tensor, block: int, device: torch.device) -> Tensor:
    """Return (T, 8) int64 on `device`: for every program its item's columns and, in FIRST, its first row in that item.

    counts: (V,) rows of each item, cut into tiles of `block`, so that no tile belongs to two items. A program then reads one line
    of 64 bytes instead of searching or dividing. With counts 5 and 2 and block 4, FIRST reads 0 4 0.
    """
    tiles = (counts + block - 1) // block  # (V,)
    item = torch.repeat_interleave(torch.arange(len(items)), tiles)  # (T,)
    first_tile = tiles.cumsum(dim=0) - tiles
    first = (torch.arange(len(item)) - first_tile[item]) * block
    return torch.cat([items[item], first[:, None]], dim=1).to(device, non_blocking=True)
