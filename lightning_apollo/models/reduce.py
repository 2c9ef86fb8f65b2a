"""Patches of the encoder to the visual tokens that reach the connector.

N patches · M visual tokens before reduction · K kept ones · D channels · F frames of all items
"""

from dataclasses import dataclass

from torch import Tensor

from apollo_kernels import Layout, merge_compact, merge_runs, similar_runs, similarity_keep
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.structures import VisualBatch


@dataclass(frozen=True)
class Reduction:
    """Visual tokens that stay. `run_tokens` is on the host: every later shape follows from it."""

    keep_mask: Tensor | None  # (M,) bool, or None where all tokens stay
    run_tokens: list[int]  # kept tokens of every run: of a frame, or of a clip

    @property
    def num_kept(self) -> int:
        return sum(self.run_tokens)

    @classmethod
    def of_all(cls, visual: VisualBatch) -> "Reduction":
        """Every token stays."""
        return cls(keep_mask=None, run_tokens=visual.run_tokens)


def layout_of(visual: VisualBatch) -> Layout:
    """Offsets of the batch's items for the ops, from the grids that the batch knows."""
    return Layout.of_grids(visual.grid_thw, visual.merge_sizes, visual.patch_size)


def select(visual: VisualBatch, layout: Layout, config: ReducerConfig) -> Reduction:
    """Return the visual tokens that stay as far as pixels decide it, which is known before the encoder runs."""
    if config.kind != "diff_fp" or layout.num_tokens == 0:
        return Reduction.of_all(visual)
    keep_mask, frame_counts = similarity_keep(
        visual.pixels,
        layout,
        threshold_grey_levels=config.threshold_grey_levels if config.token_budget is None else None,
        token_budget=config.token_budget,
        reference=config.reference,
        min_tokens=config.min_tokens,
        arithmetic=config.arithmetic,
    )
    return Reduction(keep_mask, frame_counts.tolist())  # the one host read of the forward


def reduce(features: Tensor, layout: Layout, selection: Reduction, config: ReducerConfig) -> tuple[Tensor, Reduction]:
    """Return the visual tokens (K, D) of the encoder's features (N, D), merged m×m, and what was kept in the end."""
    tokens = merge_compact(features, layout, selection.keep_mask, selection.num_kept)
    if config.kind != "merge_similar" or layout.num_tokens == 0:
        return tokens, selection
    runs = similar_runs(tokens, layout, threshold=config.min_cosine)
    reduction = Reduction(runs.keep_mask, runs.frame_counts.tolist())  # the one host read of the forward
    merged, _ = merge_runs(tokens, layout, runs, reduction.num_kept)
    return merged, reduction
