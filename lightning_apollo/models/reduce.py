"""Which visual tokens reach the LLM.

M visual tokens before reduction · K kept ones · F frames of all items
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apollo_kernels import similarity_keep
from apollo_kernels.similarity_keep import REFERENCES
from lightning_apollo.structures import VisualBatch

KINDS = ("none", "diff_fp")


@dataclass(frozen=True)
class ReducerConfig:
    """`diff_fp` drops the visual tokens of a video whose pixels did not change (VideoLLaMA 3 §2.2)."""

    kind: str = "none"  # none | diff_fp
    threshold_grey_levels: float = 0.05  # mean |Δ| of 0..255; 0.05 is VideoLLaMA 3's 0.1 in its own units, 5.8 is RLT's
    reference: str = "previous"  # previous | last_kept: the frame that a token is compared with
    min_tokens: int = 1  # tokens that every frame keeps at least

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"reducer.kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.reference not in REFERENCES:
            raise ValueError(f"reducer.reference is one of {', '.join(REFERENCES)}, not {self.reference!r}")
        if self.threshold_grey_levels < 0 or self.min_tokens < 1:
            raise ValueError("reducer.threshold_grey_levels is at least 0 and reducer.min_tokens at least 1")


@dataclass(frozen=True)
class Reduction:
    """What the reducer kept. `frame_tokens` is on the host: every later shape follows from it."""

    keep_mask: Tensor | None  # (M,) bool, or None where all tokens stay
    frame_tokens: list[int]  # F kept tokens of every frame

    @property
    def num_kept(self) -> int:
        return sum(self.frame_tokens)

    def keep_index(self) -> Tensor | None:
        """(K,) int64 positions of the kept tokens, or None where all stay."""
        if self.keep_mask is None:
            return None
        return torch.nonzero_static(self.keep_mask, size=self.num_kept).squeeze(1)


def reduce(visual: VisualBatch, config: ReducerConfig) -> Reduction:
    """Returns which visual tokens stay, from the uint8 pixels of the batch."""
    if config.kind == "none" or visual.num_visual_tokens == 0:
        return Reduction(keep_mask=None, frame_tokens=visual.frame_tokens)
    keep_mask, counts = similarity_keep(
        visual.pixels,
        visual.sizes,
        visual.merge_sizes,
        visual.patch_size,
        threshold_grey_levels=config.threshold_grey_levels,
        reference=config.reference,
        min_tokens=config.min_tokens,
    )
    return Reduction(keep_mask=keep_mask, frame_tokens=counts.tolist())  # the one host read of the forward
