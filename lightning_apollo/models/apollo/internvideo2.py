"""The video encoder of InternVideo2 (arXiv 2403.15377), under the names of its released checkpoints.

A plain transformer over all patches of a clip at once: learned positions over time and space, RMS norms, queries and keys
normalised over all heads together, and a learned scale on every residual. The 1B model of Apollo is 1408 wide, 40 layers,
16 heads, MLP 6144, patches of 14 pixels, tubelets of one frame.

K clips · T frames · P positions of a clip: one for the class token, then T·rows·columns · D channels · S side in pixels
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6
RELEASED_PATCHES = 16 * 16  # of a frame: all released weights are for 224 pixels in patches of 14


class InternVideo2(nn.Module):
    """Clips to features. `num_layers` counts the layers that run: those after the selected one are not built."""

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        patch_size: int,
        image_size: int,
        num_frames: int,
        tubelet_size: int = 1,
        layer_scale: float = 1e-5,
        position_deviation: float | None = None,
    ) -> None:
        super().__init__()
        side = image_size // patch_size
        self.grid = (num_frames // tubelet_size, side, side)
        self.patch_embed = PatchEmbed(hidden_size, tubelet_size, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), hidden_size))
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, intermediate_size, layer_scale) for _ in range(num_layers)
        )
        self.activation_checkpointing = False
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        with torch.no_grad():
            if position_deviation is None:
                self.pos_embed.copy_(sinusoid_positions(self.grid, hidden_size)[None])
            else:
                self.pos_embed.copy_(random_positions(self.grid, hidden_size, position_deviation)[None])

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) normalised pixels to (K, T', rows, columns, D) features, without the class token."""
        patches = self.patch_embed(clips)  # (K, P-1, D)
        hidden = torch.cat([self.cls_token.expand(len(clips), -1, -1), patches], dim=1) + self.pos_embed  # (K, P, D)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return hidden[:, 1:].unflatten(1, self.grid)


class PatchEmbed(nn.Module):
    """A convolution over tubelets whose stride is its kernel."""

    def __init__(self, hidden_size: int, tubelet_size: int, patch_size: int) -> None:
        super().__init__()
        kernel = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(3, hidden_size, kernel_size=kernel, stride=kernel)

    def forward(self, clips: Tensor) -> Tensor:
        """(K, T, 3, S, S) to (K, P-1, D): frame after frame, row after row."""
        return self.proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, layer_scale: float) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.attn = Attention(hidden_size, num_heads)
        self.ls1 = LayerScale(hidden_size, layer_scale)
        self.norm2 = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.mlp = MLP(hidden_size, intermediate_size)
        self.ls2 = LayerScale(hidden_size, layer_scale)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.ls1(self.attn(self.norm1(hidden)))  # (K, P, D)
        return hidden + self.ls2(self.mlp(self.norm2(hidden)))


class Attention(nn.Module):
    """Every patch of a clip sees every other. Queries and keys are normalised over all heads together, not head by head."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.q_norm = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.k_norm = nn.RMSNorm(hidden_size, eps=NORM_EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = self.qkv(hidden).chunk(3, dim=-1)  # (K, P, D) each
        heads = (self.num_heads, hidden.shape[-1] // self.num_heads)
        q, k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in (self.q_norm(q), self.k_norm(k), v))
        out = F.scaled_dot_product_attention(q, k, v)  # (K, H, P, D/H)
        return self.proj(out.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned scale for every channel, multiplied in float32."""

    def __init__(self, hidden_size: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((hidden_size,), initial))

    def forward(self, hidden: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        return (hidden.to(wide) * self.gamma.to(wide)).to(hidden.dtype)


class MLP(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden)))


def sinusoid_positions(grid: tuple[int, int, int], width: int) -> Tensor:
    """(1 + T·rows·columns, D) float32, zeros for the class token: a quarter of the channels for time, the rest in halves for
    row and column (so D is a multiple of 16). Random weights start from it; a checkpoint brings its own."""
    axes = torch.meshgrid(*map(torch.arange, grid), indexing="ij")  # (T, rows, columns) each
    widths = (width // 4, 3 * width // 8, 3 * width // 8)
    table = torch.cat([_sinusoids(axis.flatten(), part) for axis, part in zip(axes, widths, strict=True)], dim=1)
    return torch.cat([torch.zeros(1, width), table])


def random_positions(grid: tuple[int, int, int], width: int, deviation: float) -> Tensor:
    """(1 + T·rows·columns, D) float32, zeros for the class token: a random vector for every time, row and column, added up.

    Of a few frames the sinusoids differ in a few channels alone; a small model trained from scratch learns sooner from
    times that stand apart (docs/apollo.md).
    """
    time, row, column = (deviation * torch.randn(n, width) for n in grid)
    table = time[:, None, None] + row[:, None] + column  # (T, rows, columns, D)
    return torch.cat([torch.zeros(1, width), table.flatten(0, 2)])


def resize_positions(table: Tensor, grid: tuple[int, int, int], old_num_frames: int) -> Tensor:
    """(1, P, D) learned positions for another number of frames or patches: linear over time, bicubic over space.

    The released weights are for 8 frames, or for 4; the class token's position stays as it is.
    """
    token, positions = table[:, :1], table[:, 1:]
    side = math.isqrt(positions.shape[1] // old_num_frames)
    if old_num_frames * side**2 != positions.shape[1]:
        raise ValueError(f"{positions.shape[1]} positions are no {old_num_frames} frames of a square grid")
    cube = positions.unflatten(1, (old_num_frames, side, side))  # (1, T, rows, columns, D)
    if old_num_frames != grid[0]:
        over_time = cube.flatten(2).transpose(1, 2)  # (1, rows·columns·D, T)
        over_time = F.interpolate(over_time, size=grid[0], mode="linear", align_corners=False)
        cube = over_time.transpose(1, 2).unflatten(2, (side, side, -1))
    if side != grid[1]:
        planes = F.interpolate(cube[0].permute(0, 3, 1, 2), size=grid[1:], mode="bicubic", align_corners=False)
        cube = planes.permute(0, 2, 3, 1)[None]
    return torch.cat([token, cube.flatten(1, 3)], dim=1)


def _sinusoids(positions: Tensor, width: int) -> Tensor:
    """(positions, width): sines, then cosines, of frequencies from 1 to 1/10000."""
    frequencies = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float32) / (width / 2))
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
