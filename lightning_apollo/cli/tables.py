"""Terminal tables of `lightning-apollo data tune` and `data calibrate`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_apollo.data.plan.config import CostConfig
from lightning_apollo.runs.calibrate import CONSTANTS, Calibration
from lightning_apollo.runs.tune import Throughput

NOISY = 0.15  # relative error of a calibration above which it is no good


def tuning(measured: Sequence[Throughput], chosen: Throughput, num_cores: int, needed: float | None) -> RenderableType:
    """A line for each setting, the chosen one in green, what training needs if that is known, and what to write."""
    columns = ("loader processes", "decoder threads", "micro-batches/s", "samples/s", "tokens/s")
    table = Table(*columns, title=f"one training process on {num_cores} cores")
    for column in table.columns:
        column.justify = "right"
    for one in measured:
        rates = (f"{one.batches_per_second:,.2f}", f"{one.samples_per_second:,.1f}", f"{one.tokens_per_second:,.0f}")
        table.add_row(*map(str, one.setting), *rates, style="green" if one is chosen else None)
    lines = [Text.assemble("put into the recipe: ", (str(chosen.setting), "bold"))]
    if needed is not None:
        lines.insert(0, _need(chosen, needed))
    return Group(table, *lines)


def calibration(found: Calibration, stage: str) -> RenderableType:
    """The constants as measured and as counted, both also for one token of the language model, and the recipe's lines."""
    table = Table(title=f"cost of a micro-batch in {stage}, forward and backward, on {found.device}")
    table.add_column("constant")
    for name in ("seconds", "per llm_token", "FLOPs", "per llm_token"):
        table.add_column(name, justify="right")
    measured, analytic = found.measured.cost, found.analytic.cost
    for name in CONSTANTS:
        cells = (cell for cost in (measured, analytic) for cell in _constant(cost, name))
        table.add_row(name, *cells)
    errors = (found.measured.relative_error, found.analytic.relative_error)
    table.add_row("off by", *(cell for error in errors for cell in (f"{error:.1%}", "")), style="dim")
    values = "\n".join(f"    {name}: {getattr(measured, name):.3e}" for name in CONSTANTS)
    lines = [Text(f"put into the recipe:\n\ndata:\n  cost:\n{values}")]
    if found.measured.relative_error > NOISY:
        lines.insert(0, Text(f"off by more than {NOISY:.0%}: measure again when nothing else runs here", style="red"))
    return Group(table, *lines)


def _constant(cost: CostConfig, name: str) -> tuple[str, str]:
    value = getattr(cost, name)
    return f"{value:.3g}", f"{value / cost.llm_token:.3g}" if cost.llm_token else "–"


def _need(chosen: Throughput, needed: float) -> Text:
    if chosen.batches_per_second >= needed:
        return Text(f"training takes {needed:,.2f} micro-batches/s: it will not wait", style="green")
    wait = 1 - chosen.batches_per_second / needed
    return Text(f"training could take {needed:,.2f} micro-batches/s: it will wait {wait:.0%} of the time", style="red")
