"""Merging runs of similar tokens item by item and frame by frame, with what PyTorch offers for cosines and for sums by index."""

import torch
from torch import Tensor
from torch.nn import functional


def loop(tokens: Tensor, grids: list[tuple[int, int]], threshold: float) -> tuple[Tensor, Tensor]:
    """Return the mean (K, D) of each run, in the place of its first token, and the run's length (K,).

    tokens: (M, D); grids: frames, and tokens of one frame, of each item.
    """
    merged, weights = [], []
    items = tokens.split([frames * places for frames, places in grids])
    for rows, (frames, places) in zip(items, grids, strict=True):
        video = rows.view(frames, places, -1)
        head = video[0].float()  # (P, D)
        begins = [torch.ones(places, dtype=torch.bool, device=tokens.device)]
        for frame in video[1:]:
            differs = functional.cosine_similarity(frame.float(), head, dim=-1) < threshold
            head = torch.where(differs[:, None], frame.float(), head)
            begins.append(differs)
        keep = torch.stack(begins)  # (F, P)
        own = torch.arange(frames * places, device=tokens.device).view(frames, places)
        first = torch.where(keep, own, 0).cummax(dim=0).values  # the first token of each token's run
        row = (keep.flatten().cumsum(dim=0) - 1)[first.flatten()]
        lengths = row.bincount()
        total = torch.zeros(len(lengths), tokens.shape[1], device=tokens.device)
        total.index_add_(0, row, rows.float())
        merged.append((total / lengths[:, None]).to(tokens.dtype))
        weights.append(lengths.float())
    return torch.cat(merged), torch.cat(weights)
