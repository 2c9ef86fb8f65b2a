"""Merging item by item as in transformers' port of VideoLLaMA 3. To raster order, bilinear downsampling, back to rows."""

import torch
from torch import Tensor
from torch.nn import functional


def loop(features: Tensor, grids: list[tuple[int, int, int, int]], keep_mask: Tensor | None = None) -> Tensor:
    """Return the visual tokens (K, D) of features (N, D) in block order; dropped ones are left out at the end.

    grids: frames, rows and columns in patches, and merge size of each item.
    """
    merged = []
    items = features.split([frames * rows * columns for frames, rows, columns, _ in grids])
    for patches, (frames, rows, columns, m) in zip(items, grids, strict=True):
        blocks = patches.view(frames, rows // m, columns // m, m, m, -1).permute(0, 1, 3, 2, 4, 5)
        raster = blocks.reshape(frames, rows, columns, -1).permute(0, 3, 1, 2)  # (F, D, R, C)
        small = functional.interpolate(raster.float(), size=(rows // m, columns // m), mode="bilinear")
        merged.append(small.permute(0, 2, 3, 1).flatten(0, 2).to(features.dtype))
    tokens = torch.cat(merged)
    return tokens if keep_mask is None else tokens[keep_mask]
