"""The last words of a run: their commands are tried."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.runs.next_steps import next_steps, program_name
from tests.weights.stages import videollama3_with_clips


def test_the_last_words_name_the_weights_and_commands_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = videollama3_with_clips(tmp_path / "my runs")
    name, weights = folder.name, folder / "model.safetensors"
    model, ask = next_steps(recipe, None, ["r.yaml"], "lightning-apollo")
    assert model == f"model: {weights}"
    program, *words = shlex.split(ask.removeprefix("ask it: "))
    assert program == "lightning-apollo"
    assert words[2] == "--video"
    done = CliRunner().invoke(app, [*words, "--max-new-tokens", "1"])
    assert (done.exit_code, done.stderr.splitlines()) == (
        0,
        ["stopped at --max-new-tokens 1: give a larger number for the rest of the answer"],
    )
    following = next_steps(recipe, "adapt", ["my recipe.yaml", "seed=1"], "x")[1]
    assert following == f"next stage: x fit 'my recipe.yaml' seed=1 --stage {name}"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert next_steps(recipe, "adapt", ["r.yaml"], "x")[1] == f"next stage: the same command with --stage {name}"
    weights.unlink()
    assert next_steps(recipe, None, ["r.yaml"], "x") == []


def test_the_program_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin here" / "lightning-apollo"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    assert program_name() == f"'{program}'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_name() == "lightning-apollo"
    monkeypatch.setattr("sys.argv", ["/somewhere/lightning_apollo/cli.py"])
    assert program_name().endswith("-m lightning_apollo")
