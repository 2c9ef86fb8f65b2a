"""DiffFP video by video on normalised patches, the shape of the released code and of transformers' port."""

import torch
from torch import Tensor


def loop(pixels: Tensor, sizes: list[tuple[int, int, int]], merge_sizes: list[int], patch_size: int) -> Tensor:
    """Return the keep mask (M,) bool of flat uint8 pixels: each item to float patches in block order, mean |Δ| · 255 > 0.1."""
    masks = []
    start = 0
    for (frames, height, width), m in zip(sizes, merge_sizes, strict=True):
        item = pixels[start : start + frames * 3 * height * width].view(frames, 3, height, width)
        start += item.numel()
        normalised = (item.float() / 255 - 0.5) / 0.5
        rows, columns = height // (patch_size * m), width // (patch_size * m)
        blocks = normalised.view(frames, 3, rows, m, patch_size, columns, m, patch_size)
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(frames, rows * columns, -1)  # (F, P, m·m·3·p·p)
        if frames == 1:
            masks.append(torch.ones(rows * columns, dtype=torch.bool, device=pixels.device))
            continue
        change = (patches[1:] - patches[:-1]).abs().mean(dim=-1) * 255
        keep = torch.cat([torch.ones_like(change[:1], dtype=torch.bool), change > 0.1])  # (F, P)
        keep[keep.sum(dim=1) < 1, 0] = True
        masks.append(keep.flatten())
    return torch.cat(masks)
