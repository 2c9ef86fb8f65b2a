"""`import` and `export` on the command line. One line for an error, the report, the proof."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lightning_apollo.cli.weights import export_command, import_command
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.weights.verify import Verified
from tests.weights import stages

app = typer.Typer()
app.command("import")(import_command)
app.command("export")(export_command)


def run(*words: object) -> Any:
    return CliRunner().invoke(
        app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    )


def test_export_verifies_and_import_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[Path] = []

    def verify(folder: Path) -> Verified:
        verified.append(folder)
        return Verified("transformers 5", 2, 1e-6)

    monkeypatch.setattr("lightning_apollo.weights.verify.verify", verify)  # test_exporting has the real one
    recipe = stages.videollama3(tmp_path / "run")
    done = run("export", stage_folder(recipe, "videos"), tmp_path / "out", "--verify")
    assert done.exit_code == 0
    assert (
        "transformers 5 gives the same pixels, token ids and answers in 2 cases; logits differ by 1.0e-06"
        in done.stdout
    )
    assert verified == [tmp_path / "out"]
    done = run("import", tmp_path / "out", tmp_path / "llm.safetensors", "--part", "llm")
    assert done.stdout.splitlines()[0] == f"{tmp_path / 'out'}: VideoLLaMA 3 (transformers)"
    assert "not asked for (--part llm)" in done.stdout


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = run("export", tmp_path, tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path} " in done.stderr
    assert " recipe.yaml" in done.stderr
    done = run("import", tmp_path / "not" / "there", tmp_path / "out.safetensors")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'not' / 'there'}: " in done.stderr
