"""Packed attention over segments, never a mask of N×N.

N rows of all segments · H heads · G key/value heads (H is a multiple of G) · D channels of a head · S segments
"""

from itertools import groupby

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    causal: bool,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return attention (N, H, D) in which a row sees only the rows of its own segment, and none after it where `causal`.

    q: (N, H, D); k, v: (N, G, D); cu_seqlens: (S+1,) int32 with a leading 0, on the device of q; max_seqlen: the longest segment.
    CUDA in bfloat16 or float16 runs `torch.nn.attention.varlen`. A CPU runs SDPA over each run of equally long segments. So does
    CUDA in float32 or with dropout, which the varlen kernel does not have; there it costs a read of the lengths by the host.
    """
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        window = (-1, 0) if causal else (-1, -1)
        out = varlen_attn(
            q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen,
            scale=scale, window_size=window, enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        assert isinstance(out, Tensor)  # a tuple only where return_aux asks for one
        return out
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))  # (N, H, D)
    if q.shape[0] == 0:
        return q + k + v  # no rows, but a graph to all three, so that a batch without media gives zero gradients
    runs = [(length, len(list(run))) for length, run in groupby(torch.diff(cu_seqlens).tolist())]
    rows = [length * segments for length, segments in runs]
    outputs: list[Tensor] = []
    # split, not slices: the backward of a slice fills a tensor of all N rows, that of a split concatenates once
    for (length, segments), *parts in zip(runs, q.split(rows), k.split(rows), v.split(rows), strict=True):
        # (segments·length, H, D) -> (segments, H, length, D), a view: nothing is copied or padded
        q_run, k_run, v_run = (x.unflatten(0, (segments, length)).transpose(1, 2) for x in parts)
        out = scaled_dot_product_attention(q_run, k_run, v_run, is_causal=causal, scale=scale, dropout_p=dropout)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # (segments·length, H, D)
    return torch.cat(outputs)
