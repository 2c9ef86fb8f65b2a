"""Cost of a micro-batch, which packing balances."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_apollo.errors import UserError


class PlanError(UserError, ValueError):
    """A mixture, a limit or a sample with which no epoch can be planned."""


@dataclass(frozen=True)
class CostConfig:
    """Cost of a micro-batch: vision_square·Σ frame² + vision_patch·patches + llm_square·Σ segment² + llm_token·tokens.

    Any unit will do, since only ratios matter. The defaults are forward FLOPs, two for each multiply-add, of SigLIP so400m (27
    layers, 1152 wide, MLP 4304) and Qwen2.5-7B (28 layers, 3584 wide, keys and values 512, MLP 18944): a linear layer costs
    twice its weights for each row; attention costs 4·width for each pair of rows that see each other, which in a causal model
    are half of all pairs. Where both are trained, backward triples all four. Head and connector are left out.
    """

    vision_square: float = 27 * 4 * 1152
    vision_patch: float = 27 * 2 * (4 * 1152**2 + 2 * 1152 * 4304)
    llm_square: float = 28 * 2 * 3584
    llm_token: float = 28 * 2 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)

    def __post_init__(self) -> None:
        values = (self.vision_square, self.vision_patch, self.llm_square, self.llm_token)
        if not all(0.0 <= value < float("inf") for value in values) or not any(values):
            raise PlanError(f"cost: constants are finite, not negative and not all zero; they are {values}")
