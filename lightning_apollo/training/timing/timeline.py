"""A step as parts that follow one another without a gap, on the clock of the device that computes it."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import NamedTuple

import torch


class Mark(NamedTuple):
    """From this moment on, time belongs to `part`."""

    part: str
    moment: float | torch.cuda.Event  # seconds of time.perf_counter; on CUDA an event in the stream


class Timeline:
    """Every moment belongs to the part that was entered last, so the parts of a step add up to the step.

    On CUDA the moments are events in the stream: a part is what the device spends on it, or waits for it, whatever the
    host does meanwhile. Time that the host needs while the device still has work costs nothing and is counted nowhere.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[Mark] = []

    @property
    def part(self) -> str:
        return self._marks[-1].part

    def enter(self, part: str) -> None:
        self._marks.append(Mark(part, self._now()))

    def cut(self) -> list[Mark]:
        """All since the last cut; `part_seconds` reads it. The part that was entered last continues."""
        self.enter(self.part)
        marks, self._marks = self._marks, self._marks[-1:]
        return marks

    def _now(self) -> float | torch.cuda.Event:
        if not self._is_cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def part_seconds(marks: list[Mark]) -> dict[str, float]:
    """Seconds of every part that was entered. On CUDA this waits until the device has come to the last mark."""
    seconds = dict.fromkeys((mark.part for mark in marks), 0.0)
    last = marks[-1].moment
    if isinstance(last, torch.cuda.Event):
        last.synchronize()
    for begin, end in pairwise(marks):
        seconds[begin.part] += _between(begin, end)
    return seconds


def _between(begin: Mark, end: Mark) -> float:
    if isinstance(begin.moment, torch.cuda.Event) and isinstance(end.moment, torch.cuda.Event):
        return begin.moment.elapsed_time(end.moment) / 1000
    assert isinstance(begin.moment, float)  # one timeline has one clock
    assert isinstance(end.moment, float)
    return end.moment - begin.moment
