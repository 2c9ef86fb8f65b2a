"""similarity_keep against the mask that transformers' port of VideoLLaMA 3 computes from normalised pixels."""

import pytest
import torch
from torch import Tensor
from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor

from apollo_kernels import Layout, similarity_keep
from apollo_kernels.similarity_keep import ARITHMETICS, REFERENCES
from lightning_apollo.models import config

PATCH = 14


def changed_by(totals: list[int], side: int, seed: int) -> Tensor:
    """(2, 3, s, s·K) uint8: random pixels, where token k changes by totals[k] grey levels spread over its bytes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 240, (len(totals), 3 * side * side), generator=generator)
    later = tokens.clone()
    for token, total in zip(later, totals, strict=True):
        steps = torch.randint(0, token.numel(), (total,), generator=generator)
        token += torch.bincount(steps, minlength=token.numel())
    assert (later - tokens).sum(dim=1).tolist() == totals
    frames = torch.stack([tokens, later]).view(2, len(totals), 3, side, side)
    return frames.permute(0, 2, 3, 1, 4).reshape(2, 3, side, -1).to(torch.uint8)


def port_mask(patches: Tensor, layout: Layout) -> Tensor:
    """(M,) bool of the port, on float32 patches."""
    grid = layout.items[:, 3:6]  # frames, rows and columns of patches
    return VideoLlama3VideoProcessor._get_compression_mask(None, patches, grid, layout.items[:, 6])


def normalised(frames: Tensor, merge_size: int, dtype: torch.dtype) -> Tensor:
    """(N, 3·p·p) patches in block order; rescaled in float64 and normalised in float32, as image processors do."""
    values = ((frames.double() * (1 / 255)).float() - 0.5) / 0.5
    num_frames, _, height, width = values.shape
    m, rows, columns = merge_size, height // (PATCH * merge_size), width // (PATCH * merge_size)
    blocks = values.view(num_frames, 3, rows, m, PATCH, columns, m, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return blocks.reshape(-1, 3 * PATCH * PATCH).to(dtype)


@pytest.mark.parametrize(("merge_size", "totals"), [(1, [28, 29, 30, 31, 0, 500]), (2, [116, 117, 118, 119, 0, 5000])])
@pytest.mark.parametrize("seed", range(5))
def test_masks_at_the_border_equal_the_ports(merge_size: int, totals: list[int], seed: int) -> None:
    """0.05 grey levels are 29.4 over 14 × 14 pixels and 117.6 over 28 × 28: 29 and 117 are dropped, 30 and 118 kept."""
    frames = changed_by(totals, PATCH * merge_size, seed)
    layout = Layout.of(torch.tensor([[2, *frames.shape[2:]]]), torch.tensor([merge_size]), PATCH)
    keep_mask, _ = similarity_keep(frames.flatten(), layout, threshold_grey_levels=0.05)
    assert keep_mask[6:].tolist() == [False, False, True, True, False, True]
    assert keep_mask.tolist() == port_mask(normalised(frames, merge_size, torch.float32), layout).tolist()


def test_a_recipe_takes_every_rule_of_the_op() -> None:
    assert (config.REFERENCES, config.ARITHMETICS) == (REFERENCES, ARITHMETICS)
