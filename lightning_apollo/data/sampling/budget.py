"""Target size of every image and frame of a sample inside the token budget.

A grid here is (rows, columns) of visual tokens AFTER merging; one token is a square of patch_size · merge_size pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BudgetConfig:
    """Defaults: the training scripts of VideoLLaMA 3 (mm_max_length, model_max_length) and its image processor."""

    token_budget: int = 10240  # visual tokens of a sample, after merging and before reduction
    min_tokens: int = 16  # visual tokens of a frame or image, at least
    max_length: int = 16384  # text and visual tokens of a sample

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise ValueError(f"min_tokens is {self.min_tokens}: a frame needs at least one token")
        if self.token_budget < self.min_tokens:
            raise ValueError(
                f"token_budget {self.token_budget} is below min_tokens {self.min_tokens}: not one frame would fit"
            )
        if self.max_length <= self.token_budget:
            raise ValueError(
                f"max_length {self.max_length} leaves no room for text beside a token_budget of {self.token_budget}"
            )


def max_frames_in_budget(budget: BudgetConfig) -> int:
    """The most frames and images, over all items of a sample, that `target_sizes` can find room for."""
    return budget.token_budget // budget.min_tokens


def target_sizes(
    sizes: Sequence[tuple[int, int, int]],
    merge_sizes: Sequence[int],
    patch_size: int,
    budget: BudgetConfig,
) -> list[tuple[int, int]]:
    """The (height, width) in pixels that every item of a sample is resized to, in order.

    `sizes` holds (num_frames, height, width) of each item. Every frame and image of the sample gets the same share of
    the budget (VideoLLaMA 3's released `simple_batched_resize`). Two things differ from the release, both where it
    leaves its own bounds: enlarging a small frame never lifts it over its share, so that the sum never passes
    `token_budget`; and items of different merge size follow the same rule, a share being counted in tokens (the
    release scales such samples by one factor, without a minimum, down to sides of 0).
    """
    num_frames = sum(frames for frames, _, _ in sizes)
    if num_frames > max_frames_in_budget(budget):
        raise ValueError(
            f"{num_frames} frames of at least {budget.min_tokens} tokens pass the token_budget of "
            f"{budget.token_budget}: at most {max_frames_in_budget(budget)} frames fit, sample fewer"
        )
    targets = []
    for (_, height, width), merge_size in zip(sizes, merge_sizes, strict=True):
        side = patch_size * merge_size
        rows, columns = _grid(height, width, side, num_frames, budget)
        targets.append((rows * side, columns * side))
    return targets


def _grid(height: int, width: int, side: int, num_frames: int, budget: BudgetConfig) -> tuple[int, int]:
    """Rows and columns for one frame among `num_frames`; python's round, half to even, as the release has it."""
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height} by {width} pixels cannot be scaled")
    max_pixels = budget.token_budget * side**2 // num_frames
    min_pixels = budget.min_tokens * side**2
    rows, columns = round(height / side), round(width / side)
    if rows * columns * side**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = math.floor(height / shrink / side), math.floor(width / shrink / side)
    if rows * columns < budget.min_tokens:  # not elif: shrinking rounds down and may have gone too far
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / side), math.ceil(width * grow / side)
    share = budget.token_budget // num_frames
    return (rows, columns) if rows * columns <= share else _closest_grid(height / width, budget.min_tokens, share)


def _closest_grid(aspect: float, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """The grid of min_tokens to max_tokens tokens whose rows / columns is closest to `aspect` on a log scale."""
    grids = []
    for rows in range(1, max_tokens + 1):
        fewest, most = math.ceil(min_tokens / rows), max_tokens // rows  # columns
        if fewest <= most:
            grids.append((rows, min(max(round(rows / aspect), fewest), most)))
    return min(grids, key=lambda grid: (abs(math.log(grid[0] / grid[1] / aspect)), -grid[0] * grid[1]))
