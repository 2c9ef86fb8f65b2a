"""Deadlocked ranks: the report names the rank, component and samples. The run ends."""

from dataclasses import replace
from pathlib import Path

import pytest

from lightning_apollo.training.watchdog.callback import EXIT_CODE, LOG
from lightning_apollo.training.watchdog.report import Position, RankReport, deadlock_report, diagnosis, is_stalled
from tests.launch import launch
from tests.training.rank_steps import samples

CONNECTOR = Position(step=7, micro_batch=14, phase="forward", module="connector", num_entered=4)
LAYER = replace(CONNECTOR, module="llm.model.layers.1", num_entered=7)
BACKWARD = replace(CONNECTOR, phase="backward", module="vision", num_entered=9)


def report(rank: int, position: Position, still: float = 9.0, passes: int = 1, **values) -> RankReport:
    """A rank that has entered the connector `passes` times."""
    entered = {"forward vision": 1, "forward connector": passes}
    return RankReport(rank, position, still, (f"clips:{rank}",), entered, **values)


def run(folder: Path, fault: str, patience_seconds: float, end_seconds: float) -> tuple[int, str]:
    done = launch(
        2, "tests.training.rank_sentinel:run", str(folder), fault, str(patience_seconds), str(end_seconds),
        deadline_seconds=120,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_rank_that_goes_around_a_component_is_named_and_the_run_ends(tmp_path: Path) -> None:
    code, output = run(tmp_path, "skip", 2.0, 1.0)
    log = (tmp_path / LOG).read_text()
    assert code == EXIT_CODE, output
    assert log in output  # to standard error as well
    first = log.splitlines()[0]
    assert "rank 1 never entered the forward of `connector`, where rank 0 waits" in first
    assert first.endswith(f"with samples {samples(False)[4 + 2].sample_id}")  # rank 1's third
    assert f"samples: {samples(False)[2].sample_id}" in log  # what rank 0 waits with
    assert "step 2, micro-batch 2" in log
    assert "rank_sentinel.py" in log  # the line of code that waits
    assert "nothing has moved for 1 s more" in log


@pytest.mark.slow
def test_one_ranks_own_collective_is_reported_within_ten_seconds(tmp_path: Path) -> None:
    code, output = run(tmp_path, "extra", 7.0, 3.0)  # as a recipe has it
    assert code == EXIT_CODE, output
    log = tmp_path / LOG
    first, *_, last = log.read_text().splitlines()
    assert "rank 1 has not come out of the forward of `connector`" in first
    assert f"with samples {samples(False)[4 + 2].sample_id}" in first
    assert "nothing has moved" in last
    written = log.stat().st_mtime - 3.0  # the last line came so much later
    assert written - float((tmp_path / "stuck").read_text()) < 10.0


@pytest.mark.slow
def test_a_run_without_a_stall_is_left_alone(tmp_path: Path) -> None:
    code, output = run(tmp_path, "none", 2.0, 1.0)
    assert code == 0, output
    assert {path.name for path in tmp_path.iterdir()} == {"finished0", "finished1"}


def test_a_rank_behind_that_others_passed_by() -> None:
    line = diagnosis(
        [report(0, CONNECTOR), report(1, LAYER, passes=0), report(2, CONNECTOR), report(3, LAYER, passes=0)]
    )
    assert line == (
        "ranks 1, 3 never entered the forward of `connector`, where ranks 0, 2 wait, and are in the forward of "
        "`llm.model.layers.1`, with samples clips:1, clips:3"
    )


def test_a_rank_behind_that_others_have_left() -> None:
    line = diagnosis([report(0, BACKWARD), report(1, CONNECTOR), report(2, LAYER)])
    assert line == (
        "rank 1 has not come out of the forward of `connector`, with samples clips:1: slow, or waiting for what the "
        "others never began; ranks 0, 2 are further on, in the backward of `vision` and the forward of `llm.model.layers.1`"
    )


def test_a_rank_without_a_batch_and_one_that_is_gone() -> None:
    late = report(1, Position(7, 14, "between batches"))
    assert diagnosis([report(0, CONNECTOR), late]) == (
        "rank 1 has no next batch yet; rank 0 waits in the forward of `connector`"
    )
    gone = report(1, LAYER, is_silent=True)
    assert (
        diagnosis([report(0, CONNECTOR), gone])
        == "rank 1 is gone: the last word was from the forward of `llm.model.layers.1`"
    )


def test_a_stall_is_ranks_apart_and_none_that_moves() -> None:
    assert is_stalled([report(0, CONNECTOR), report(1, LAYER)], 8.0)
    assert is_stalled([report(0, CONNECTOR), report(1, LAYER, still=5.0)], 8.0)
    assert not is_stalled([report(0, CONNECTOR), report(1, LAYER, still=1.0)], 8.0)  # one that works
    assert not is_stalled([report(0, CONNECTOR, still=7.0), report(1, LAYER, still=7.0)], 8.0)  # not yet
    assert not is_stalled([report(0, CONNECTOR), report(1, CONNECTOR)], 8.0)  # both wait for something else
    assert is_stalled([report(0, CONNECTOR), report(1, CONNECTOR, is_silent=True)], 8.0)


def test_a_report_travels_as_text_and_shows_everything() -> None:
    one = report(3, BACKWARD, stack=("model.py:12 forward",))
    assert RankReport.from_json(one.to_json()) == one
    text = deadlock_report([one, report(1, CONNECTOR)])
    assert "rank 3: the backward of `vision`, for 9.0 s; step 7, micro-batch 14" in text
    assert "    samples: clips:3\n    model.py:12 forward" in text
