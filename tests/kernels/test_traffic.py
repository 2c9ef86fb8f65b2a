"""Every kernel moves little more than it must, or says why; and the table says what was counted."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.traffic_cases import CASES, NOTES
from tests.places import KERNELS, ROOT
from verification.traffic import Row, as_markdown, main, measure, needs_note, write_csv

CASES_MODULE = ("--cases", "tests.kernels.traffic_cases")

ROWS = [
    Row("copy", "_copy_kernel", "x", 9000, 9100, 1.011, 0.31, 1.0, ""),
    Row("copy", "_copy_kernel", "table", 8, 256, 32.0, 0.009, 0.5, ""),
    Row("copy", "_copy_kernel", "y_out", 9000, 20000, 2.222, 0.681, 1.0, "written twice"),
]


@pytest.mark.parametrize("op", CASES)
def test_bulk_arguments_move_little_more_than_they_must_or_have_a_note(op: str) -> None:
    rows = measure(op, CASES[op], NOTES)
    above = {(op, row.kernel, row.argument) for row in rows if needs_note(row)}
    notes = {key for key in NOTES if key[0] == op}
    assert above - notes == set(), f"above the allowed ratio and without a note:\n{as_markdown(rows)}"
    assert notes - above == set(), f"notes that nothing needs:\n{as_markdown(rows)}"


def test_every_note_belongs_to_a_case() -> None:
    assert {op for op, _, _ in NOTES} <= set(CASES)


def test_only_bulk_arguments_above_the_ratio_need_a_note() -> None:
    assert [needs_note(row) for row in ROWS] == [False, False, True]


def test_the_table_is_aligned() -> None:
    assert as_markdown(ROWS).splitlines() == [
        "| op   | kernel       | argument | minimum bytes | sector bytes | ratio | share | active lanes | note          |",
        "| ---- | ------------ | -------- | ------------: | -----------: | ----: | ----: | -----------: | ------------- |",
        "| copy | _copy_kernel | x        |          9000 |         9100 | 1.011 |  0.31 |          1.0 |               |",
        "| copy | _copy_kernel | table    |             8 |          256 |  32.0 | 0.009 |          0.5 |               |",
        "| copy | _copy_kernel | y_out    |          9000 |        20000 | 2.222 | 0.681 |          1.0 | written twice |",
    ]


def test_the_csv_holds_the_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "traffic.csv", ROWS)
    with (tmp_path / "traffic.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["argument"] for line in lines] == ["x", "table", "y_out"]
    assert lines[2]["sector_bytes"] == "20000"
    assert lines[2]["note"] == "written twice"


def test_the_command_sets_the_interpreter_itself(tmp_path: Path) -> None:
    """In a process of its own, without the variable that tests set."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(KERNELS)
    command = [
        sys.executable,
        "-m",
        "verification.traffic",
        *CASES_MODULE,
        "rope_2d",
        "--csv",
        str(tmp_path / "traffic.csv"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    with (tmp_path / "traffic.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["op"] for line in lines} == {"rope_2d"}
    assert [line.split("|")[3].strip() for line in done.stdout.splitlines()[2:]] == [line["argument"] for line in lines]


def test_an_unknown_op_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*CASES_MODULE, "rope_3d"])
    assert "no case for rope_3d: choose from" in capsys.readouterr().err
