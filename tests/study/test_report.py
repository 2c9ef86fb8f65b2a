"""Study reports on the terminal and in files, with undefined values."""

import csv
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.study.analysis import dominant_factor, find_outlier
from lightning_apollo.study.findings import conclusion, find, sections
from lightning_apollo.study.plan import Study, StudyRun, plan_runs
from lightning_apollo.study.report import report_study, write
from lightning_apollo.study.score import LOG, StudyScore, write_score
from lightning_apollo.study.sections import number_text, show_estimate
from lightning_apollo.study.statistics import Estimate
from lightning_apollo.study.table import StudyTable
from tests.study.tables import PUBLISHED, score_table
from tests.study.test_plan import study, write_study

HEAVY = ("torch", "scipy", "matplotlib", "numpy", "lightning", "transformers", "omegaconf")
KINDS = ("first_colour", "last_colour", "order", "flashes", "border", "temporal")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["study", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def report_of(table: StudyTable, folder: Path) -> str:
    """The Markdown of a report on a table."""
    outlier = find_outlier(table, None)
    findings = find(table, dominant_factor(table, outlier), outlier)
    write("a study", sections(findings, 3), findings, {"score": table}, "score", folder)
    return (folder / "report.md").read_text()


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["reanalyse", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lightning_apollo.cli.main import app\n"
        f"CliRunner().invoke(app, ['study', *{words!r}])\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_numbers_are_shown_or_not_defined() -> None:
    assert [number_text(0.1234), number_text(None), number_text(float("nan"))] == [
        "0.123",
        "not defined",
        "not defined",
    ]
    assert show_estimate(Estimate(0.5, -0.25, 0.75)) == "0.500 [-0.25, 0.75]"
    assert show_estimate(Estimate(0.5)) == "0.500, no interval"
    assert show_estimate(Estimate()) == "not defined"


def test_reanalyse_prints_and_writes_the_published_numbers(tmp_path: Path) -> None:
    result = invoke("reanalyse", str(PUBLISHED), "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    report = (tmp_path / "out" / "report.md").read_text()
    for row in ("4B–7B | 21 | 0.938 [", "1.5B–7B | 21 | 0.831 [", "0.5B–7B | 21 | 0.694 ["):
        assert f"| all variants | {row}" in report
    for row in ("1.5B–4B | 21 | 0.902 [", "0.5B–4B | 21 | 0.772 [", "0.5B–1.5B | 21 | 0.736 ["):
        assert f"| all variants | {row}" in report
    for row in (
        "| without design 7 | 18 | 0.913 | 0.742 | 0.523 |",
        "| means of each mixture removed | 21 | 0.900 | 0.686 | 0.517 |",
        "| means of each mixture removed, then without design 7 | 18 | 0.455 | 0.021 | 0.037 |",
    ):
        assert row in report
        assert all(cell.strip() in result.output for cell in row.strip("|").split("|"))
    assert "the choice of mixture and the failure of design 7 carry over from smaller LLMs" in report
    assert "Smallest size that ranks the variants as 7B does, all variants: 4B." in report
    assert "means of each mixture removed: none." in report
    with (tmp_path / "out" / "figures.csv").open() as file:
        rows = {(row["measure"], row["view"], row["item"], row["against"]): row for row in csv.DictReader(file)}
    row = rows["r_squared", "without design 7", "1.5B", "7B"]
    assert (row["variants"], round(float(row["value"]), 3)) == ("18", 0.742)
    assert float(row["low"]) < 0.742 < float(row["high"])
    assert ("kendall", "mixture B alone, without design 7", "4B", "7B") in rows
    with (tmp_path / "out" / "scores.csv").open() as file:
        first, *rest = csv.DictReader(file)
    assert (first["variant"], first["llm_parameters"], first["score"], len(rest)) == ("A/1", "7000000000", "46.37", 83)


def test_reanalyse_takes_another_factor_and_keeps_every_design() -> None:
    result = invoke("reanalyse", str(PUBLISHED), "--factor", "design", "--drop", "none")
    assert "means of each design removed" in result.output
    assert "without design" not in result.output
    other = invoke("reanalyse", str(PUBLISHED), "--drop", "3")
    assert "without design 3" in other.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factor", "data"], r"--factor data: .*mixture, design\n"),
        (["--drop", "9"], r"--drop 9: .*1, 2, 3, 4, 5, 6, 7, .*\bnone\b.*\n"),
    ],
)
def test_reanalyse_names_what_is_unknown(words: list[str], message: str) -> None:
    result = invoke("reanalyse", str(PUBLISHED), *words)
    assert result.exit_code == 2
    assert re.fullmatch(message, result.stderr)


ORDER = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("small", "expected"),
    [
        (ORDER, "So beyond the choice of f, the order of what is left carries over from s."),
        (
            [2.0, 3.0, 4.0, 1.0, 6.0, 7.0, 8.0, 5.0],
            "support that the choice of f carries over from smaller LLMs, but do not show",
        ),
        (ORDER[::-1], "Not even over all variants can an order be told from chance"),
    ],
)
def test_what_is_said_depends_on_what_is_left(small: list[float], expected: str) -> None:
    table = score_table({"s": small, "l": ORDER}, {"f": [*"aaaabbbb"]})
    assert expected in conclusion(find(table, "f", None))


@pytest.mark.parametrize(
    "table",
    [
        score_table({"s": [0.1, 0.2], "l": [0.3, 0.2]}, {"f": ["a", "b"]}),
        score_table({"s": [0.5] * 5, "l": [0.5] * 5}, {"f": ["a", "a", "a", "b", "b"]}),
        score_table({"s": [0.1, 0.2, 0.4], "l": [None, None, None]}, {"f": ["a", "a", "b"]}),
        score_table({"s": [0.1, None, 0.4, 0.3], "l": [None, 0.3, 0.4, None]}, {"f": ["a", "a", "b", "b"]}),
        score_table({"s": [0.3]}),
    ],
    ids=["two", "equal", "no largest", "gaps", "single"],
)
def test_no_table_gives_a_nan_or_a_crash(table: StudyTable, tmp_path: Path) -> None:
    report = report_of(table, tmp_path / "report")
    assert "nan" not in report.lower()
    assert "nan" not in (tmp_path / "report" / "figures.csv").read_text()
    assert "not defined" in report or "nothing can be compared" in report
    pictures = sorted((tmp_path / "report").glob("*.png"))
    assert len(pictures) == report.count("![") >= 1
    for picture in pictures:
        with Image.open(picture) as image:
            assert len(set(image.convert("L").tobytes())) > 10


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[StudyRun]]:
    """A study with four variants at two sizes and two seeds; one run is missing, one has failed."""
    folder = tmp_path_factory.mktemp("scored")
    factors = itertools.product(("2.0", "1.0"), (8, 4))
    variants = {
        f"fps{place}": {
            "set": [f"data.sampling.fps={fps}", f"data.sampling.max_frames={n}"],
            "factors": {"fps": fps, "n": n},
        }
        for place, (fps, n) in enumerate(factors)
    }
    mine = study(folder, variants=variants, data={"one": {"samples": 4}})
    runs = plan_runs(mine)
    for number, run in enumerate(runs[:-2]):
        run.folder.mkdir(parents=True)
        place = list(mine.variants).index(run.variant)
        value = 0.2 + 0.1 * place + 0.2 * (run.size == "w32") + 0.001 * number
        write_score(run, StudyScore(run.name, value, dict.fromkeys(KINDS, value), run.fingerprint, 1, 1.0))
    runs[-1].folder.mkdir(parents=True)
    (runs[-1].folder / LOG).write_text("reading\nout of memory\n\n")
    return mine, runs


def test_a_study_is_reported_with_what_is_missing(scored: tuple[Study, list[StudyRun]]) -> None:
    mine, runs = scored
    report_study(mine, runs, Console(quiet=True))
    folder = Path(mine.output) / "report"
    report = (folder / "report.md").read_text()
    assert f"14 of 16 are finished. Missing: {runs[-2].name}, {runs[-1].name}." in report
    assert "Smallest size that ranks the variants as w32 does, all variants: w16." in report
    assert "| all variants | w16–w32 | 4 | " in report
    assert "## How much is noise" in report
    assert "| fps0 | 0.204 ± 0.006 |" in report  # scores 0.200 and 0.208
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 * len(KINDS)
    row = next(row for row in rows if row["kind"] == "order" and row["seed"] == "3" and row["size"] == "w32")
    assert (row["variant"], row["fps"], row["n"], row["samples"], row["data"]) == ("fps0", "2.0", "8", "4", "one")


def test_another_score_needs_no_other_run(scored: tuple[Study, list[StudyRun]]) -> None:
    mine, runs = scored
    report_study(replace(mine, score="border"), runs, Console(quiet=True))
    assert "accuracy, border" in (Path(mine.output) / "report" / "report.md").read_text()


def test_list_says_how_far_each_run_is(scored: tuple[Study, list[StudyRun]]) -> None:
    mine, runs = scored
    result = invoke("list", str(Path(mine.output).parent / "mine.yaml"))
    lines = {line.split("│")[1].strip(): line for line in result.output.splitlines() if "│" in line}
    assert result.exit_code == 0
    assert "done" in lines[runs[0].name]
    assert "0.200" in lines[runs[0].name]
    assert "missing" in lines[runs[-2].name]
    assert "failed" in lines[runs[-1].name]
    assert "out of memory" in lines[runs[-1].name]


def test_slurm_prints_the_missing_runs_alone(scored: tuple[Study, list[StudyRun]]) -> None:
    mine, runs = scored
    result = invoke("run", str(Path(mine.output).parent / "mine.yaml"), "--slurm")
    assert result.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0-1\n" in result.stdout
    assert [run.name for run in runs if f"\n  {run.name}\n" in result.stdout] == [runs[-2].name, runs[-1].name]


def test_a_study_without_a_score_is_one_line(tmp_path: Path) -> None:
    path = write_study(tmp_path, seeds=[0], data={"one": {"samples": 4}})
    result = invoke("report", str(path))
    assert result.exit_code == 2
    assert re.fullmatch(r"mine: .*`lightning-apollo study run`\n", result.stderr)


def test_run_does_what_is_missing_and_names_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes are replaced by ones that do nothing but fail or score."""
    path = write_study(tmp_path, seeds=[0], data={"one": {"samples": 4}}, sizes={"w16": {}})
    words: list[list[str]] = []

    def run_process(run: StudyRun, command: list[str], environment: dict[str, str]) -> StudyScore | None:
        words.append(command[-4:])
        run.folder.mkdir(parents=True)
        (run.folder / LOG).write_text("it broke\n")
        if run.variant == "slow":
            return None
        score = StudyScore(run.name, 0.5, dict.fromkeys(KINDS, 0.5), run.fingerprint, 1, 1.0)
        write_score(run, score)
        return score

    monkeypatch.setattr("lightning_apollo.study.jobs._run_process", run_process)
    monkeypatch.setattr("lightning_apollo.study.execute.render_study_data", lambda recipe, progress: None)
    result = invoke("run", str(path), "--jobs", "2")
    assert result.exit_code == 1
    assert sorted(words) == [["--only", f"{name}.w16.one.s0", "--threads", "1"] for name in ("fast", "slow")]
    assert "fast.w16.one.s0: 0.500" in result.stdout
    log = tmp_path / "out" / "slow.w16.one.s0" / LOG
    assert result.stderr == f"slow.w16.one.s0 failed: it broke (all of it: {log})\n"
    assert (tmp_path / "out" / "report" / "report.md").is_file()
