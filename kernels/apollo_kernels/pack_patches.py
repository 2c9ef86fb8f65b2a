"""Pixels of many images and videos to one matrix of patches.

V items · F frames of an item · R×K grid of an item in patches · m its merge size · p patch side · N patches of all items
"""

import torch
from torch import Tensor


def pack_patches(
    pixels: Tensor,
    sizes: Tensor,
    merge_sizes: Tensor,
    patch_size: int,
    *,
    mean: float = 0.5,
    std: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Returns normalised patches (N, 3·p·p) and the (row, column) of each in its own frame (N, 2) int64.

    pixels: (B,) uint8, the items one after the other, each (F, 3, H, W); sizes: (V, 3) frames, height, width on the CPU;
    merge_sizes: (V,) on the CPU. Values are (x / 255 − mean) / std, each row in (channel, y, x) order.

    Rows are in block order: the m×m patches that merge into one visual token follow each other. A frame of 2×4 patches
    with m = 2 holds, at row and column,     0 1 4 5
                                             2 3 6 7

    Source: VideoLLaMA 3, image_processing_videollama3.py; the transformers port's `patchify`.
    """
    num_patches = int((sizes[:, 0] * (sizes[:, 1] // patch_size) * (sizes[:, 2] // patch_size)).sum())
    patches = torch.empty(num_patches, 3 * patch_size**2, dtype=dtype, device=pixels.device)
    positions = torch.empty(num_patches, 2, dtype=torch.int64, device=pixels.device)
    byte, row = 0, 0
    for (frames, height, width), m in zip(sizes.tolist(), merge_sizes.tolist(), strict=True):
        rows, columns = height // patch_size, width // patch_size
        count = frames * rows * columns
        item = pixels[byte : byte + frames * 3 * height * width]
        blocks = item.view(frames, 3, rows // m, m, patch_size, columns // m, m, patch_size)
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (F, R/m, K/m, m, m, 3, p, p)
        patches[row : row + count].view(blocks.shape).copy_(blocks)
        positions[row : row + count] = block_positions(rows, columns, m, pixels.device).repeat(frames, 1)
        byte, row = byte + item.numel(), row + count
    return patches.sub_(255 * mean).div_(255 * std), positions


def block_positions(rows: int, columns: int, merge_size: int, device: torch.device | str = "cpu") -> Tensor:
    """(rows·columns, 2) int64: row and column of each patch of one frame, in block order."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack([row, column], dim=-1)  # (R, K, 2) raster order
    blocks = grid.view(rows // merge_size, merge_size, columns // merge_size, merge_size, 2).transpose(1, 2)
    return blocks.reshape(-1, 2).to(device)
