"""docs/walkthrough.md: its commands in order on real clips. Only the 2B start is a tiny one."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lightning_apollo.cli.main import app
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from tests.places import ROOT
from tests.test_real_clips import CLIPS
from tests.weights.stages import finish

TEXT = (ROOT / "docs" / "walkthrough.md").read_text()
COMMANDS = [
    line.removeprefix("lightning-apollo ")
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]
TINY = {"DAMO-NLP-SG/VideoLLaMA3-2B": "start", "videollama3-2b": "videollama3-tiny"}  # in the place of the 2B
# What a tiny model takes: fewer and smaller frames, two steps, a CPU
SMALL = [
    *("data.budget.token_budget=256", "data.budget.min_tokens=4", "data.budget.max_length=1024", "data.num_workers=0"),
    *("stages.fine_tuning.epochs=1", "stages.fine_tuning.max_steps=2", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "trainer.strategy=auto", "trainer.progress_bar=false"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the reader of the text has, and a published checkpoint, which is tiny."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # `fit` trains in a process of its own
    shutil.copytree(CLIPS, "clips")
    shutil.copy(conf_folder() / "examples" / "real_clips.jsonl", "my.jsonl")
    recipe = load_recipe("videollama3-tiny", [f"output={tmp_path / 'tiny'}", f"data.root={tmp_path / 'shapes'}"])
    finish(recipe)
    name = list(recipe.stages)[-1]
    export_stage(recipe, name, stage_folder(recipe, name) / WEIGHTS, tmp_path / "start")
    return tmp_path


def run(command: str) -> Result:
    words = [TINY.get(word, word) for word in shlex.split(command)]
    words += SMALL if words[0] in ("inspect", "explain", "fit") else []
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{command}\n{result.output}"
    return result


@pytest.mark.slow
def test_the_commands_run_in_their_order_and_transformers_gives_the_same_answer(place: Path) -> None:
    outputs = {command.split()[0]: run(command).stdout for command in COMMANDS}
    assert list(outputs) == ["import", "new", "inspect", "explain", "fit", "generate", "evaluate", "export"]
    said = [line for line in outputs["new"].splitlines() if line.startswith("lightning-apollo ")]
    assert [command.split()[1] for command in said] == ["inspect", "explain", "fit", "generate", "export"]
    assert (place / "runs/mytask/fine_tuning/model.safetensors").is_file()
    assert "10 rows, 10 answers to give; scored by token F1 10" in outputs["evaluate"]
    assert (place / "runs/mytask/fine_tuning/evaluation/my/report.html").read_text().count("<h3>") == 10
    assert "gives the same pixels, token ids and answers in 2 cases" in outputs["export"]
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    answered = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answered.stdout.strip() == outputs["generate"].strip()
    assert len(outputs["generate"].strip()) > 3


def test_the_row_that_is_shown_is_one_of_the_example() -> None:
    (row,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)
    assert row in (conf_folder() / "examples" / "real_clips.jsonl").read_text()
