"""Command line: fast help, errors in one line and arguments of each command."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lightning_apollo.runs.fit
from lightning_apollo import __version__
from lightning_apollo.cli.main import app
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.structures import MediaError

HEAVY = ("torch", "lightning", "transformers", "torchcodec", "omegaconf", "scipy", "matplotlib", "gradio", "peft")
COMMANDS = (
    "fit",
    "new",
    "inspect",
    "import",
    "export",
    "merge",
    "generate",
    "chat",
    "evaluate",
    "explain",
    "demo",
    "doctor",
)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_help_loads_nothing_heavy() -> None:
    asked = [[], ["--help"], ["--version"], ["evaluate", "curate", "--help"], *([name, "--help"] for name in COMMANDS)]
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lightning_apollo.cli.main import app\n"
        f"for words in {asked!r}:\n"
        "    CliRunner().invoke(app, words)\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not loaded, (words, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_the_commands_and_shows_examples() -> None:
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)
    examples = run("fit", "--help").stdout
    assert "lightning-apollo fit videollama3-2b data.manifests=[train.jsonl,more.json] data.root=videos" in examples
    assert run("--version").stdout == f"lightning-apollo {__version__}\n"


def test_the_shell_completes_names_of_recipes() -> None:
    program = Path(sys.executable).with_name("lightning-apollo")
    asked = {
        "_LIGHTNING_APOLLO_COMPLETE": "complete_bash",
        "COMP_WORDS": "lightning-apollo fit videollama3-t",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["videollama3-tiny"]


def test_fit_ends_by_saying_what_to_run_next_but_for_a_part_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lightning_apollo.runs.fit, "run_recipe", lambda *_: None)  # as one whose stages are finished
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-apollo"])
    for stage in ("multi_task_fine_tuning", "video_centric_fine_tuning"):
        weights = tmp_path / "my runs" / stage / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"")
    words = ("fit", "videollama3-tiny", "output=my runs")
    ask = "ask it: lightning-apollo generate 'my runs/{}' --video VIDEO.mp4 --prompt 'What happens?'"
    last = ["model: my runs/video_centric_fine_tuning/model.safetensors", ask.format("video_centric_fine_tuning")]
    assert run(*words).stdout.splitlines() == last
    assert run(*words, "--stage", "multi_task_fine_tuning").stdout.splitlines() == [
        "model: my runs/multi_task_fine_tuning/model.safetensors",
        "next stage: lightning-apollo fit videollama3-tiny 'output=my runs' --stage video_centric_fine_tuning",
        ask.format("multi_task_fine_tuning"),
    ]
    assert run(*words, "--stage", "video_centric_fine_tuning", "--part-of-run").stdout == ""


def test_fit_hands_the_recipe_and_the_stage_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Recipe, str | None, bool, str | None]] = []
    monkeypatch.setattr(lightning_apollo.runs.fit, "run_recipe", lambda *arguments: calls.append(arguments))
    assert run("fit", "videollama3-tiny").exit_code == 0
    words = ("seed=7", "--stage", "multi_task_fine_tuning", "output=x", "--resume", "--again=multi_task_fine_tuning")
    assert run("fit", "videollama3-tiny", *words).exit_code == 0
    assert run("fit", "--again", "videollama3-tiny", "seed=1").exit_code == 0  # it takes no word behind it for a stage
    assert [(recipe.seed, recipe.output, *how) for recipe, *how in calls] == [
        (0, "runs/videollama3-tiny", None, False, None),
        (7, "x", "multi_task_fine_tuning", True, "multi_task_fine_tuning"),
        (1, "runs/videollama3-tiny", None, False, ""),
    ]


@pytest.mark.parametrize("command", ["fit", "explain"])
def test_a_mistake_is_one_line_and_code_2(command: str) -> None:
    result = run(command, "videollama3-tiny", "sed=7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"sed=7: sed: .*\bseed\b.*\n", result.stderr)
    unknown_recipe = run(command, "videollama3-tyni")
    assert unknown_recipe.exit_code == 2
    assert unknown_recipe.stderr.count("\n") == 1


def test_an_unreadable_file_is_one_line_and_debug_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MediaError("clips/[7].mp4", "no video in it")

    monkeypatch.setattr(lightning_apollo.runs.fit, "run_recipe", fail)
    result = run("fit", "videollama3-tiny")
    assert (result.exit_code, result.stderr) == (2, "clips/[7].mp4: no video in it\n")
    assert isinstance(run("fit", "videollama3-tiny", "--debug").exception, MediaError)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lightning_apollo.runs.fit, "run_recipe", fail)
    assert isinstance(run("fit", "videollama3-tiny").exception, ZeroDivisionError)


def test_explain_prints_every_stage() -> None:
    result = run("explain", "videollama3-tiny")
    assert result.exit_code == 0
    assert all(kind in result.stdout for kind in ("VisionEncoderAdaptation", "VideoCentricFineTuning"))
