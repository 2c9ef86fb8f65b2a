"""Own rows from the command line to the table and the page; the models have learnt nothing, but their answers are long."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.evaluate import app
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.evaluation.own.own_files import EXPECTED, write_own_rows
from tests.small_data import turns, write_rows
from tests.weights.stages import videollama3_with_clips


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, folder = videollama3_with_clips(tmp_path_factory.mktemp("runs"))
    export_stage(recipe, "videos", folder / WEIGHTS, folder.parent / "exported")
    return folder


def evaluate(*words: str | Path) -> str:
    said = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    return said.output


def test_from_rows_to_table_and_page(stage: Path, tmp_path: Path) -> None:
    manifest = write_own_rows(tmp_path / "data", {"conversations": turns("Where?", "here"), "answer": "here"})
    model = tmp_path / "videos"
    shutil.copytree(stage, model)
    said = evaluate(model, "--data", manifest, "--root", tmp_path / "data", "--batch-size", "3")
    assert "scored by choice 2, token F1 2, time span IoU 1, number 1, exact match 1" in said
    assert "1 rows or questions cannot be used" in said
    output = model / "evaluation" / "val"
    assert f"report: {output / 'report.html'}" in said
    assert {result.question_id for result in read_results(output / "results.jsonl")} == set(EXPECTED)
    (table,) = json.loads((output / "scores.json").read_text())
    assert (table["num_questions"], table["rows"][0]["num_answers"]) == (8, 7)
    assert 0 < table["losses"]["all"]["low"] <= table["losses"]["all"]["value"] <= table["losses"]["all"]["high"]
    page = (output / "report.html").read_text()
    assert page.count("<h3>") == 7
    assert "data:image/png;base64," in page
    answers = (output / "answers-0.jsonl").read_text()
    evaluate(model, "--data", manifest, "--metric", "f1")  # without --root: the file's folder
    assert (output / "answers-0.jsonl").read_text() == answers
    assert "scored by token F1 7 (as --metric says)" in (output / "report.md").read_text()


def test_keys_are_ignored_where_the_recipe_says_so(stage: Path, tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "val.jsonl", [{"conversations": turns("Where?", "here"), "answer": "here"}])
    words = (stage, "--data", manifest, "--output", tmp_path / "out")
    refused = CliRunner().invoke(app, [str(word) for word in words])
    assert refused.exit_code == 2
    assert "nothing to ask: the first of 1 broken rows" in refused.output.replace("\n", " ")
    evaluate(*words, "data.unknown_keys=ignore")
    assert len(read_results(tmp_path / "out" / "results.jsonl")) == 1


def test_an_export_beside_its_stage_differs_by_nothing(stage: Path, tmp_path: Path) -> None:
    manifest = write_own_rows(tmp_path / "data")
    words = (stage, "--data", manifest, "--output", tmp_path / "out", "--compare", stage.parent / "exported")
    said = evaluate(*words, "--modes", "full,blind")
    assert said.count("paired difference of score") == said.count("paired difference of loss") == 2
    assert "7 answers do not tell the two models apart" in said
    comparison = (tmp_path / "out" / "comparison.md").read_text()
    assert "| all | " in comparison
    assert "| +0.0 | +0.0 to +0.0 | 7 |" in comparison
    answers = [read_results(place / "results.jsonl") for place in (tmp_path / "out", tmp_path / "out" / "compared")]
    assert [one.answer for one in answers[0]] == [one.answer for one in answers[1]]
    assert "Beside exported" in (tmp_path / "out" / "report.html").read_text()


def test_a_benchmark_compares_two_models_too(stage: Path, tmp_path: Path) -> None:
    data = stage.parent / "shapes"
    words = (stage, "--benchmark", "shapes", "--data", data, "--output", tmp_path, "--compare", stage)
    said = evaluate(*words)
    assert "paired difference of score" in said
    assert "test (compared)" in said
    assert "5 answers do not tell the two models apart" in (tmp_path / "comparison.md").read_text()


def test_errors_are_one_line(stage: Path, tmp_path: Path) -> None:
    manifest = str(write_own_rows(tmp_path))
    (tmp_path / "empty.jsonl").write_text("")
    for words, message in (
        (["--data", str(tmp_path)], "is a folder: name its --benchmark, or a file of rows"),
        (["--data", manifest, "--metric", "accuracy"], "there is no metric accuracy, known: exact, choice"),
        (["--data", manifest, "--metric", "span"], "--metric span cannot score the expected answer 'B'"),
        (["--data", manifest, "--benchmark", "mme", "--metric", "f1"], "--metric is for own rows"),
        (["--data", manifest, "--benchmark", "mme", "--root", "."], "--root is for own rows"),
        (["--data", str(tmp_path), "--data", ".", "--benchmark", "mme"], "has one folder of files: give --data once"),
        (["--data", str(tmp_path / "empty.jsonl")], "nothing to ask: it has no row"),
        (["--data", manifest, "--compare", str(tmp_path)], "has no recipe.yaml"),
    ):
        said = CliRunner().invoke(app, [str(stage), *words], env={"COLUMNS": "300"})
        assert said.exit_code == 2, said.output
        assert message in said.output.replace("\n", " ")
