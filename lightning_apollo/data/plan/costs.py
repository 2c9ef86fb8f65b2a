"""Memory and time cost of each sample of an index, as arrays for the planner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.data.plan.config import CostConfig

_RESOLUTION = 2**30  # steps between nothing and the most expensive sample


@dataclass(frozen=True, eq=False)
class SampleCosts:
    """One entry for each sample of all sources, the samples of a source side by side, in the order of `source_names`."""

    source_names: tuple[str, ...]
    source: NDArray[np.int16]  # (E,) index into source_names, ascending
    llm_tokens: NDArray[np.int32]  # (E,) text and visual tokens, 1 or more
    patches: NDArray[np.int32]  # (E,) rows of the vision encoder
    vision_squares: NDArray[np.int64]  # (E,) sum over frames of patches²

    def __post_init__(self) -> None:
        for name, dtype in (
            ("source", "int16"),
            ("llm_tokens", "int32"),
            ("patches", "int32"),
            ("vision_squares", "int64"),
        ):
            values = getattr(self, name)
            if values.dtype != dtype or values.shape != (len(self.source),):
                raise ValueError(
                    f"{name}: ({len(self.source)},) {dtype} is expected, not {values.shape} {values.dtype}"
                )
        if len(self.source):
            if self.source[0] < 0 or self.source[-1] >= len(self.source_names) or np.any(np.diff(self.source) < 0):
                raise ValueError(f"source: ascending numbers below {len(self.source_names)} are expected")
            if min(self.llm_tokens.min() - 1, self.patches.min(), self.vision_squares.min()) < 0:
                raise ValueError("llm_tokens are 1 or more, patches and vision_squares 0 or more")

    def __len__(self) -> int:
        return len(self.source)

    def source_range(self, name: str) -> range:
        """The samples of a source; none if there is no such source."""
        if name not in self.source_names:
            return range(0)
        number = self.source_names.index(name)
        return range(*(int(end) for end in np.searchsorted(self.source, [number, number + 1])))

    def describe(self, sample: int) -> str:
        """Source of a sample and its number in it, from 0, as an error names it."""
        name = self.source_names[self.source[sample]]
        return f"source {name}, sample {sample - self.source_range(name).start}"


def costs_of_samples(costs: SampleCosts, config: CostConfig) -> NDArray[np.float64]:
    """(E,) cost of each sample, in the unit of the constants."""
    tokens = costs.llm_tokens.astype(np.float64)
    vision = config.vision_square * costs.vision_squares + config.vision_patch * costs.patches
    return vision + (config.llm_square * tokens + config.llm_token) * tokens


def whole_costs(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """(E,) costs as whole numbers, of which the most expensive is 2^30.

    Their sums are exact, so that machines which add floats in another order still make the same plan.
    """
    highest = cost.max(initial=0.0)
    return np.rint(cost * (_RESOLUTION / highest if highest else 0.0)).astype(np.int64)
