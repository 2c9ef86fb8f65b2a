"""Patches of the encoder to the visual tokens that reach the connector.

N patches · M visual tokens before reduction · K kept ones · D channels · F frames of all items
"""

from dataclasses import dataclass

from torch import Tensor

from apollo_kernels import Layout, merge_compact, merge_runs, similar_runs, similarity_keep
from apollo_kernels.similarity_keep import ARITHMETICS, REFERENCES
from lightning_apollo.structures import VisualBatch

KINDS = ("none", "diff_fp", "merge_similar")


@dataclass(frozen=True)
class ReducerConfig:
    """`diff_fp` drops visual tokens whose pixels did not change (VideoLLaMA 3 §2.2). `merge_similar` replaces runs of similar
    features at one place by their mean, which also saves tokens where a camera moves or noise changes every pixel."""

    kind: str = "none"  # none | diff_fp | merge_similar
    threshold_grey_levels: float = 0.05  # mean |Δ| of 0..255; 0.05 is VideoLLaMA 3's 0.1 in its own units, 5.8 is RLT's
    token_budget: int | None = None  # visual tokens that diff_fp keeps of each video, instead of a threshold
    reference: str = "previous"  # previous | last_kept: the frame that a token is compared with
    min_tokens: int = 1  # tokens that diff_fp keeps of every frame at least
    arithmetic: str = "exact"  # exact | bfloat16: as the released models compute it when they run in bfloat16
    min_cosine: float = 0.9  # merge_similar: tokens at least this similar to the first of their run join it

    def __post_init__(self) -> None:
        choices = {"kind": KINDS, "reference": REFERENCES, "arithmetic": ARITHMETICS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"reducer.{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.threshold_grey_levels < 0 or self.min_tokens < 1:
            raise ValueError("reducer.threshold_grey_levels is at least 0 and reducer.min_tokens at least 1")
        if self.token_budget is not None and (self.reference, self.arithmetic) != ("previous", "exact"):
            raise ValueError("reducer.token_budget needs reducer.reference=previous and reducer.arithmetic=exact")
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"reducer.token_budget is at least 1, not {self.token_budget}")
        if not -1 < self.min_cosine <= 1:
            raise ValueError(f"reducer.min_cosine is above -1 and at most 1, not {self.min_cosine}")


@dataclass(frozen=True)
class Reduction:
    """Result of the reducer. `run_tokens` is on the host: every later shape follows from it."""

    keep_mask: Tensor | None  # (M,) bool, or None where all tokens stay
    run_tokens: list[int]  # kept tokens of every run: of a frame, or of a clip

    @property
    def num_kept(self) -> int:
        return sum(self.run_tokens)


def select(visual: VisualBatch, layout: Layout, config: ReducerConfig) -> Reduction:
    """Return the visual tokens that stay as far as pixels decide it, which is known before the encoder runs."""
    if config.kind != "diff_fp" or layout.num_tokens == 0:
        return Reduction(keep_mask=None, run_tokens=visual.run_tokens)
    kept = similarity_keep(
        visual.pixels,
        layout,
        threshold_grey_levels=config.threshold_grey_levels if config.token_budget is None else None,
        token_budget=config.token_budget,
        reference=config.reference,
        min_tokens=config.min_tokens,
        arithmetic=config.arithmetic,
    )
    return Reduction(kept.keep_mask, kept.frame_counts.tolist())  # the one host read of the forward


def reduce(features: Tensor, layout: Layout, selection: Reduction, config: ReducerConfig) -> tuple[Tensor, Reduction]:
    """Return the visual tokens (K, D) of the encoder's features (N, D), merged m×m, and what was kept in the end."""
    tokens = merge_compact(features, layout, selection.keep_mask, selection.num_kept)
    if config.kind != "merge_similar" or layout.num_tokens == 0:
        return tokens, selection
    runs = similar_runs(tokens, layout, threshold=config.min_cosine)
    reduction = Reduction(runs.keep_mask, runs.frame_counts.tolist())  # the one host read of the forward
    merged, _ = merge_runs(tokens, layout, runs, reduction.num_kept)
    return merged, reduction
