"""Commands and Python of the README, run as they stand there on data made as it says; CI runs `make demo` and `make test`."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from tests.media_files import write_clip
from tests.places import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
COMMANDS = [line.removeprefix(".venv/bin/lightning-apollo ") for line in LINES if "lightning-apollo " in line]


def test_the_first_screen_has_the_two_commands() -> None:
    assert [line for line in LINES if line.startswith("make ")] == ["make demo", "make test"]
    assert README.index("make test") < 1200


def test_it_is_short_and_shows_a_picture_first() -> None:
    assert len(README.split()) < 1200
    assert README.index("](docs/images/") < README.index("\n## ")


def test_make_knows_the_targets_that_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)`", README)) | {"demo", "test"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the README's row, forty times, and the clip that it names."""
    monkeypatch.chdir(tmp_path)
    row = re.search(r"```json\n(.*?)```", README, flags=re.DOTALL)
    assert row is not None
    video = tmp_path / "videos" / json.loads(row[1])["video"]
    video.parent.mkdir(parents=True)
    write_clip(video)
    (tmp_path / "train.jsonl").write_text(row[1] * 40)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, place: Path) -> None:
    words = shlex.split(command)
    if words[0] == "fit":  # one step of one stage; the run of all stages is the demo's
        stage = "vision_encoder_adaptation"
        words += [
            f"stages.{stage}.max_steps=1",
            f"stages.{stage}.optimizer.warmup_ratio=0",
            "trainer.progress_bar=false",
            "--stage",
            stage,
        ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    if words[0] == "fit":
        assert (place / "runs/mine/vision_encoder_adaptation/model.safetensors").is_file()
    else:
        assert len(result.output.splitlines()) > 5


def test_the_python_trains_a_stage_and_answers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(code, {})
    trained = place / "runs/python/vision_encoder_adaptation"
    assert len((trained / "metrics.csv").read_text().splitlines()) == 1 + 3  # the header and the steps that it names
    assert len(capsys.readouterr().out.splitlines()[-1]) > 1  # some answer


def test_the_commands_of_the_walkthrough_are_those_that_its_test_runs() -> None:
    (block,) = re.findall(r"```\n(lightning-apollo import .*?)```", README, flags=re.DOTALL)
    walkthrough = (ROOT / "docs" / "walkthrough.md").read_text()
    run = "".join(re.findall(r"```bash\n(.*?)```", walkthrough, flags=re.DOTALL)).splitlines()
    assert len(block.splitlines()) > 4
    assert [line for line in block.splitlines() if line not in run] == []


def test_a_mistyped_key_is_answered_as_the_page_of_recipes_shows() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    shown = re.search(r"```console\n\$ lightning-apollo (.*)\n(.*)\n```", page)
    assert shown is not None
    result = CliRunner().invoke(app, shlex.split(shown[1]))
    assert result.exit_code == 2
    assert result.output.strip() == shown[2]
