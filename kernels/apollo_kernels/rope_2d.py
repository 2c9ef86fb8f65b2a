"""Rotary position embedding over rows and columns (axial), split-half layout, for a packed encoder.

N patches · H heads · D channels of a head, a multiple of 4
"""

import torch
from torch import Tensor


def rope_2d_tables(positions: Tensor, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine (N, D/2) float32: the first D/4 columns turn with the row, the others with the column.

    positions: (N, 2) row and column. Frequencies are computed in float32 and kept there, whatever the model's dtype:
    in bfloat16 an angle at row 100 is off by 0.26 rad.
    Source: VideoLLaMA 3, modeling_videollama3_encoder.py:155-190 (θ = 10,000 over arange(0, D/2, 2) / (D/2)).
    """
    axis_dim = head_dim // 2
    exponents = torch.arange(0, axis_dim, 2, dtype=torch.float32, device=positions.device) / axis_dim  # (D/4,)
    angles = positions[:, :, None].float() / theta**exponents  # (N, 2, D/4)
    angles = angles.flatten(1)  # (N, D/2)
    return angles.cos(), angles.sin()


def rope_2d(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Returns q and k (N, H, D) rotated by the tables of `rope_2d_tables`, computed in float32, in their own dtype.

    Channel i and channel i + D/2 are the two coordinates of one rotation ("split half", not interleaved).
    Source: VideoLLaMA 3, modeling_videollama3_encoder.py:400-426.
    """
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (N, 1, D/2)
    first, second = x.to(cos.dtype).chunk(2, dim=-1)  # (N, H, D/2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
