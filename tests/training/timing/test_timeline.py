"""Parts of a step without a gap between them."""

import time

import pytest
import torch

from lightning_apollo.training.timing import timeline
from lightning_apollo.training.timing.timeline import Timeline, part_seconds


def test_a_part_lasts_until_the_next_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 1.5, 3.5, 4.5, 10.0, 12.0, 13.0])
    monkeypatch.setattr(timeline, "perf_counter", lambda: next(moments))
    line = Timeline(torch.device("cpu"))
    for part in ("read", "think", "read"):
        line.enter(part)
    assert part_seconds(line.cut()) == {"read": 0.5 + 1.0, "think": 2.0}
    line.enter("write")
    assert part_seconds(line.cut()) == {"read": 5.5, "write": 2.0}  # what was being done continued
    assert part_seconds(line.cut()) == {"write": 1.0}


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    line = Timeline(torch.device("cuda"))
    line.enter("idle")
    time.sleep(0.2)  # the device has nothing to do
    line.enter("work")
    torch.cuda._sleep(200_000_000)
    line.enter("after")  # while the device still works
    seconds = part_seconds(line.cut())
    assert seconds["idle"] > 0.15
    assert seconds["work"] > 0.05
    assert seconds["after"] < 0.05
