"""Output of `lightning-apollo evaluate curate` for the table worked out by hand, and its errors."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.evaluation.results import MODES, write_results
from tests.evaluation.hand_table import ANSWERS, ENTROPIES, MODELS, OUTCOMES, RESULTS, results_of


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", "curate", *map(str, words)], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{model}.jsonl" for model in MODELS]
    for path in paths:
        write_results([result for result in RESULTS if result.model == path.stem], path)
    return paths


def test_the_command_writes_and_prints(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "new" / "curated"
    done = run(*files, "--top", 3, "--output", output)
    assert done.exit_code == 0, done.stderr
    with (output / "questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["question_id"]: row["outcome"] for row in rows} == OUTCOMES
    assert [float(row["entropy_bits"]) for row in rows] == pytest.approx(list(ENTROPIES.values()))
    assert [rows[1][f"share_right_{mode}"] for mode in MODES] == ["0.25", "0.5", "0.5"]
    assert [json.loads(line) for line in (output / "curated.jsonl").read_text().splitlines()] == [
        {"benchmark": "hand", "question_id": "q1", "category": "ocr"},
        {"benchmark": "hand", "question_id": "q2", "category": "ocr"},
        {"benchmark": "hand", "question_id": "q8", "category": "reasoning"},
    ]
    assert (output / "scores.png").read_bytes().startswith(b"\x89PNG")
    report = (output / "report.md").read_text()
    assert "| ocr | 5 | 1 | 0 | 4 | 2 |" in report
    assert "| reasoning | 3 | 1 | 2 | 1 | 1 |" in report
    assert "| all | 8 | 2 | 2 | 5 | 3 |" in report
    assert "| a | 0.875 | 0.667 | 0.375 | 0.333 | 0.250 | 0.000 | 0.667 |" in report
    assert "| chosen by these models | 0.870 | 0.949 |" in report
    assert "| each model left out of the choice | 0.940 | 0.949 |" in report  # 6.75/√(18.75·2.75), 4.5/√(5·4.5)
    assert "entropy 0, on which all models agree: 1." in report
    printed = " ".join(done.stdout.split())
    for words in ("Speed-up: 2.7× (8 questions before, 3 after; counted in questions", "optimistic", "report.md"):
        assert words in printed


def test_what_is_not_defined_is_said(files: list[Path], tmp_path: Path) -> None:
    done = run(*files[:1], "--per-category", 1, "--output", tmp_path / "curated")
    assert done.exit_code == 0, done.stderr
    report = (tmp_path / "curated" / "report.md").read_text()
    assert "| chosen by these models | not defined | not defined |" in report
    assert "the top 1 of every category" in report


def test_names_of_others_are_no_markup(tmp_path: Path) -> None:
    odd = [replace(result, model=f"[red]|{result.model}$_$", category="[ocr]|") for result in RESULTS]
    write_results(odd, tmp_path / "odd.jsonl")
    done = run(tmp_path / "odd.jsonl", "--output", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "[red]|a$_$" in done.stdout
    assert "| [ocr]\\| | 8 |" in (tmp_path / "report.md").read_text()


def test_mistakes_are_one_line(files: list[Path], tmp_path: Path) -> None:
    twice = run(*files, files[0], "--output", tmp_path / "curated")
    assert (twice.exit_code, twice.stdout) == (2, "")
    assert re.fullmatch(r"hand q1: a .*\bfull: .*\n", twice.stderr)
    missing = run(tmp_path / "none.jsonl")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert missing.stderr.startswith(f"{tmp_path / 'none.jsonl'}: ")
    write_results(results_of({"q7": ANSWERS["q7"]}), tmp_path / "easy.jsonl")
    nothing = run(tmp_path / "easy.jsonl", "--output", tmp_path / "curated")
    assert nothing.exit_code == 2
    assert nothing.stderr == (
        "none of 1 questions needs the video: more than 50% of the models answer each without it: "
        "add models or raise --max-share-without-video\n"
    )
    assert not (tmp_path / "curated").exists()
