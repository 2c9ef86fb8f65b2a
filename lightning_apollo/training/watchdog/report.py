"""Deadlock reports from rank positions. Pure: no clock, no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

BETWEEN = "between batches"  # the loader, callbacks, checkpoints
PHASES = (BETWEEN, "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Position:
    """The last thing that a rank began."""

    step: int  # optimizer steps before this one
    micro_batch: int  # batches of the epoch before this one
    phase: str  # one of PHASES
    module: str = ""  # the last one that the phase entered; empty before the first
    num_entered: int = 0  # modules that the phase has entered, with repetition

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Sort ranks that run the same program by how far they are."""
        return self.step, self.micro_batch, PHASES.index(self.phase), self.num_entered

    def __str__(self) -> str:
        return f"the {self.phase} of `{self.module}`" if self.module else f"the phase `{self.phase}`"


@dataclass(frozen=True)
class RankReport:
    """One rank, as its watching thread sees it."""

    rank: int
    position: Position
    still_seconds: float  # since the position changed
    samples: tuple[str, ...] = ()  # of its batch
    entered: dict[str, int] = field(default_factory=dict)  # times that the phase so far entered each module
    stack: tuple[str, ...] = ()  # the main thread's, innermost first
    is_silent: bool = False  # the rank says nothing any more: its process has ended, or is stopped

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> RankReport:
        values = json.loads(text)
        values |= {"position": Position(**values["position"])}
        return cls(**values | {name: tuple(values[name]) for name in ("samples", "stack")})


def is_stalled(reports: Sequence[RankReport], patience_seconds: float) -> bool:
    """True if one rank has not moved for that long, the others hardly later, and not all of them stand at the same place.

    Ranks at one place are waiting for something else than each other: the disk, or a long computation.
    """
    still = [report.still_seconds for report in reports]
    apart = len({report.position for report in reports}) > 1 or any(report.is_silent for report in reports)
    return apart and max(still) >= patience_seconds and min(still) >= patience_seconds / 2


def deadlock_report(reports: Sequence[RankReport]) -> str:
    """The report for a person: the diagnosis, then every rank with where it is, since when, with which samples."""
    lines = [f"the ranks wait for each other: {diagnosis(reports)}"]
    for report in reports:
        at = report.position
        lines += [
            f"rank {report.rank}: {at}, for {report.still_seconds:.1f} s; step {at.step}, micro-batch {at.micro_batch}"
            + (", silent: its process has ended or is stopped" if report.is_silent else ""),
            f"    samples: {', '.join(report.samples) or 'none'}",
            *(f"    {line}" for line in report.stack),
        ]
    return "\n".join(lines)


def diagnosis(reports: Sequence[RankReport]) -> str:
    """One line: which rank the others wait for, where, and with which samples."""
    silent = [report for report in reports if report.is_silent]
    if silent:
        return f"{_ranks(silent, 'is', 'are')} gone: the last word was from {_places(silent)}"
    behind = min(reports, key=lambda report: report.position.order)
    there = [report for report in reports if report.position == behind.position]
    others = [report for report in reports if report.position != behind.position]
    if behind.position.phase == BETWEEN:
        return (
            f"{_ranks(there, 'has', 'have')} no next batch yet; {_ranks(others, 'waits', 'wait')} in {_places(others)}"
        )
    skipped = [report for report in others if _passed_by(report, behind)]
    if skipped:
        return (
            f"{_ranks(skipped)} never entered {behind.position}, where {_ranks(there, 'waits', 'wait')}, and "
            f"{'is' if len(skipped) == 1 else 'are'} in {_places(skipped)}, with {_samples(skipped)}"
        )
    return (
        f"{_ranks(there, 'has', 'have')} not come out of {behind.position}, with {_samples(there)}: slow, or waiting for "
        f"what the others never began; {_ranks(others, 'is', 'are')} further on, in {_places(others)}"
    )


def _passed_by(report: RankReport, behind: RankReport) -> bool:
    """True if `report` is past the place of `behind` without having been there as often."""
    at, place = report.position, behind.position
    if (at.step, at.micro_batch) != (place.step, place.micro_batch) or not place.module:
        return False
    key = entry(place.phase, place.module)
    return report.entered.get(key, 0) < behind.entered.get(key, 0)


def entry(phase: str, module: str) -> str:
    """The key of a module in `RankReport.entered`."""
    return f"{phase} {module}"


def _ranks(reports: Sequence[RankReport], singular: str = "", plural: str = "") -> str:
    """The ranks and a verb in their number."""
    names = ", ".join(str(report.rank) for report in reports)
    return (f"rank {names} {singular}" if len(reports) == 1 else f"ranks {names} {plural}").strip()


def _places(reports: Sequence[RankReport]) -> str:
    return " and ".join(dict.fromkeys(str(report.position) for report in reports))


def _samples(reports: Sequence[RankReport]) -> str:
    return "samples " + ", ".join(name for report in reports for name in report.samples)
