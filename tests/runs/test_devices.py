"""Devices that a recipe asks for and a machine lacks: one line before anything is written."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.recipe.schema import RecipeError, load_recipe
from lightning_apollo.runs.devices import check_devices
from lightning_apollo.training.config import TrainerConfig


@pytest.mark.parametrize("kind", ["gpu", "mps"])
def test_fit_on_a_gpu_that_is_not_there_is_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    words = {"gpu": [], "mps": ["--stage", "vision_encoder_adaptation"]}[kind]
    output = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["fit", "videollama3-tiny", f"trainer.accelerator={kind}", f"output={output}", *words]
    )
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"trainer.accelerator is {kind}, but torch finds no such GPU on this machine: set trainer.")
    assert not output.exists()


def test_more_gpus_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("auto", "2"):
        check_devices(TrainerConfig(accelerator="gpu", devices=devices))
    check_devices(TrainerConfig(accelerator="cpu", devices="8"))
    with pytest.raises(RecipeError, match=r"trainer\.devices.*3.*2 GPUs"):
        check_devices(TrainerConfig(devices="3"))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trainer.accelerator=tpu", r"accelerator .*auto, cpu, gpu, cuda, mps.*'tpu'$"),
        ("trainer.devices=0", r"devices .*\b1\b.*auto.*'0'$"),
        ("output=", r"output .*output=.*folder$"),
        ("name=", r"name .*name=.*folder$"),
    ],
)
def test_what_no_machine_has_is_refused_with_the_recipe(word: str, line: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("videollama3-tiny", [word])
    assert re.search(line, str(error.value))


def test_an_output_that_cannot_be_made_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = CliRunner().invoke(app, ["fit", "videollama3-tiny", f"output={file}/run"])
    assert done.exit_code == 2
    (line,) = (done.stderr + capfd.readouterr().err).splitlines()  # the stage says it in a process of its own
    assert f"{file}/run" in line
