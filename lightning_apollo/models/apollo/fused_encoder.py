"""Apollo's vision encoder: features of two towers for the same clip, side by side on one grid (§6, C.1).

SigLIP sees every frame by itself, a video encoder the whole clip. Each tower gets the frames in its own size and colours,
padded to a square with its mean colour; its features are interpolated to the finest grid of both and concatenated.

K clips · T frames of a clip · S side in pixels · D channels of a tower · W channels of all towers together
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_apollo.models.apollo.config import FusedEncoderConfig
from lightning_apollo.models.apollo.towers import TOWERS, Grid, Tower


class FusedEncoder(nn.Module):
    """Frames of clips to features on one grid."""

    def __init__(self, config: FusedEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleDict(
            {name: TOWERS[tower.kind](tower, config.num_frames) for name, tower in config.towers.items()}
        )
        times, rows, columns = zip(*(tower.grid for tower in self._towers()), strict=True)
        self.grid: Grid = (max(times), max(rows), max(columns))

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Return (K, T', rows, columns, W) of K clips, each (T or 1, 3, H, W) uint8; no clip at all gives K = 0."""
        features = [self._run(tower, clips) for tower in self._towers()]  # (K, T', rows, columns, D) each
        return torch.cat([onto_grid(feature, self.grid) for feature in features], dim=-1)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        for tower in self._towers():
            tower.set_activation_checkpointing(enabled)

    def _towers(self) -> list[Tower]:
        return [cast(Tower, tower) for tower in self.towers.values()]

    def _run(self, tower: Tower, clips: Sequence[Tensor]) -> Tensor:
        """Without a clip the tower runs on one of its mean colour, of which nothing is kept: transformers' attention takes no empty
        batch, and every rank runs what it trains. A frozen tower runs without autograd."""
        like = next(tower.parameters())
        size = tower.config.image_size
        shape = (max(1, len(clips)), self.config.num_frames, 3, size, size)
        pixels = torch.zeros(shape, device=like.device, dtype=like.dtype)
        for clip, target in zip(clips, pixels[: len(clips)], strict=True):
            target.copy_(padded_square(clip, size, tower.mean, tower.deviation))  # one frame fills its whole clip
        is_trained = any(parameter.requires_grad for parameter in tower.parameters())
        with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
            return tower(pixels)[: len(clips)]


def padded_square(frames: Tensor, size: int, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """(F, 3, size, size) float32 of (F, 3, H, W) uint8: normalised, the longer side resized to `size` (bilinear with
    antialias), in the middle of the mean colour, which is 0 after normalisation (the released mm_utils)."""
    height, width = frames.shape[2:]
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = frames.float() / 255  # (F, 3, H, W)
    if pixels.shape[2:] != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    pixels = (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(deviation).view(3, 1, 1)
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(pixels, (left, size - width - left, top, size - height - top))


def onto_grid(features: Tensor, grid: Grid) -> Tensor:
    """(K, T, rows, columns, D) onto another grid by trilinear interpolation in float32 (C.1)."""
    if features.shape[1:4] == grid:
        return features
    wide = torch.promote_types(features.dtype, torch.float32)
    channels_first = features.permute(0, 4, 1, 2, 3).to(wide)
    resized = F.interpolate(channels_first, size=grid, mode="trilinear", align_corners=False)
    return resized.permute(0, 2, 3, 4, 1).to(features.dtype)
