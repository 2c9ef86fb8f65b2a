"""Patches of the encoder to visual tokens: the mean of each m×m block, dropped tokens left out.

V items · N patches · M visual tokens before reduction · K kept ones · D channels
"""

from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor


def merge_compact(features: Tensor, grid_thw: Tensor, merge_sizes: Tensor, keep_index: Tensor | None = None) -> Tensor:
    """Returns visual tokens (M, D), or (K, D) where `keep_index` (K,) names the ones to keep, in order.

    features: (N, D) in block order; grid_thw: (V, 3) frames, rows, columns in patches on the CPU; merge_sizes: (V,) on the CPU.
    Block order puts the m² patches of a token next to each other, so that merging is a mean over them. For m = 2 this equals the
    bilinear downsampling of the paper (VideoLLaMA 3 §3.3); the sum is taken in float32.
    """
    items = zip(merge_sizes.tolist(), grid_thw.prod(dim=1).tolist(), strict=True)  # m and patches of each
    runs = [(m, sum(n for _, n in run)) for m, run in groupby(items, key=itemgetter(0))]  # neighbours of one merge size
    parts = features.split([num_patches for _, num_patches in runs])
    merged = [rows.view(-1, m * m, features.shape[1]).mean(dim=1) for (m, _), rows in zip(runs, parts, strict=True)]
    tokens = torch.cat(merged) if merged else features[:0]
    return tokens if keep_index is None else tokens.index_select(0, keep_index)
