"""Rows that a stage draws and never trains on, behind the last whole step of an epoch or of the stage.

28 rows in steps of 20, one epoch: 8 rows are never shown. Rows that a fraction of a pass leaves out are not counted: that was
asked for, and every epoch draws others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lightning_apollo.data.plan.planner import Planner

_MAX_EPOCHS = 16  # looked at: after so many, each of which leaves out others, hardly a row is left


@dataclass(frozen=True)
class Unseen:
    """Counts of what is drawn and never shown."""

    rows: dict[str, int]  # of each source that has any
    num_rows: int  # drawn in any epoch, shown or not
    epoch_samples: int  # drawn in the first epoch
    ends_in_first_epoch: bool


def find_unseen(planner: Planner, source_names: Sequence[str], num_micro_batches: int) -> Unseen:
    """Follow the epochs of a stage of so many micro-batches, over all ranks, until every row was shown."""
    drawn, shown = np.empty((0, 2), np.int64), np.empty((0, 2), np.int64)
    epoch_samples = len(planner.rows(0))
    ends_in_first_epoch = num_micro_batches < planner.num_micro_batches(0)
    for epoch in range(_MAX_EPOCHS):
        rows = planner.rows(epoch)
        positions = min(num_micro_batches, planner.num_micro_batches(epoch))
        num_shown = planner.num_samples(epoch, positions)
        drawn = np.unique(np.concatenate([drawn, rows]), axis=0)
        shown = np.unique(np.concatenate([shown, rows[:num_shown]]), axis=0)
        num_micro_batches -= positions
        if not num_micro_batches or len(shown) == len(drawn):
            break
    counts = _per_source(drawn, len(source_names)) - _per_source(shown, len(source_names))
    unseen = {name: int(count) for name, count in zip(source_names, counts, strict=True) if count}
    return Unseen(unseen, len(drawn), epoch_samples, ends_in_first_epoch)


def unseen_line(unseen: Unseen, stage: str, steps_of_epoch: int, step: tuple[str, int]) -> str | None:
    """One line that says what is left out and what to set; None where nothing is.

    steps_of_epoch: optimizer steps that show the first epoch; step: the key of a stage to set and its value, 0 for a larger
    one than it has: later epochs leave out others.
    """
    if not unseen.rows:
        return None
    each = ", ".join(f"{name} {count}" for name, count in unseen.rows.items())
    line = f"stage {stage}: {sum(unseen.rows.values())} of {unseen.num_rows} rows are never shown ({each}): "
    if unseen.ends_in_first_epoch:
        return f"{line}max_steps ends before an epoch is through, set stages.{stage}.max_steps={steps_of_epoch} or more"
    key, size = step
    fix = f"set stages.{stage}.{key}={size}, which divides an epoch" if size else f"raise stages.{stage}.{key}"
    return f"{line}they lie behind the last whole step of an epoch, {fix}"


def divisor(number: int, largest: int, unit: int) -> int:
    """The largest multiple of `unit` up to `largest` that divides `number`; 0 where there is none."""
    return next((size for size in range(largest // unit * unit, 0, -unit) if number % size == 0), 0)


def _per_source(rows: NDArray[np.int64], num_sources: int) -> NDArray[np.int64]:
    return np.bincount(rows[:, 0], minlength=num_sources)
