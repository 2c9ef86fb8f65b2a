"""Adapter files: contents, merging and refusals in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lightning_apollo.cli.weights import merge_command
from lightning_apollo.models.checkpoint.adapter import AdapterOrigin, digest, read_adapter, write_adapted
from lightning_apollo.models.checkpoint.files import ADAPTER, stored
from lightning_apollo.models.checkpoint.load import save_weights, whole_weights
from lightning_apollo.models.config import LoraConfig, ReducerConfig
from lightning_apollo.models.lora import add_adapters
from lightning_apollo.models.video_lmm import build_model
from tests.models.clips import randomize
from tests.models.samples import MODEL

LORA = {"llm": LoraConfig(rank=2, alpha=4, modules=["q_proj"])}
ORIGIN = AdapterOrigin("mine", "fine_tuning", {"connector": 1e-3, "llm": 1e-3}, LORA)

app = typer.Typer()
app.command()(merge_command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start weights, and what a stage leaves that changed A, B and the connector."""
    folder = tmp_path_factory.mktemp("stage")
    model = build_model(MODEL, ReducerConfig())
    randomize(model)
    save_weights(model, folder / "start.safetensors")
    add_adapters(model.components(), LORA)
    for parameter in (*model.connector.parameters(), *(p for p in model.llm.parameters() if p.requires_grad)):
        parameter.data.normal_()
    write_adapted(whole_weights(model), ORIGIN, folder / "model.safetensors", folder / ADAPTER)
    return folder


def merge(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_a_file_has_what_trained_and_says_of_what(folder: Path) -> None:
    tensors = load_file(folder / ADAPTER)
    layers = [f"llm.model.layers.{number}.self_attn.q_proj" for number in range(2)]
    adapters = {f"{layer}.lora_{letter}.weight" for layer in layers for letter in "AB"}
    assert tensors.keys() == adapters | {f"connector.readout.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    with safe_open(folder / ADAPTER, framework="pt") as file:
        said = json.loads(file.metadata()["lightning_apollo.adapter"])
    frozen = {name: stored(t) for name, t in load_file(folder / "start.safetensors").items() if name not in tensors}
    assert said["frozen_sha256"] == digest(frozen)
    assert (said["origin"]["recipe"], said["origin"]["stage"], said["dtype"]) == ("mine", "fine_tuning", "float32")
    assert said["origin"]["lora"]["llm"]["modules"] == ["q_proj"]
    assert read_adapter(folder / ADAPTER)[0].origin == ORIGIN


def test_the_merge_is_w_plus_scaled_b_a(folder: Path) -> None:
    start, merged, tensors = (load_file(folder / name) for name in ("start.safetensors", "model.safetensors", ADAPTER))
    layer = "llm.model.layers.1.self_attn.q_proj"
    update = tensors[f"{layer}.lora_B.weight"].double() @ tensors[f"{layer}.lora_A.weight"].double() * (4 / 2)
    expected = start[f"{layer}.weight"].double() + update
    torch.testing.assert_close(merged[f"{layer}.weight"].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(merged["connector.readout.0.weight"], tensors["connector.readout.0.weight"])
    assert torch.equal(
        merged["llm.model.layers.1.self_attn.k_proj.weight"], start[f"{layer}.weight".replace("q_", "k_")]
    )


def test_the_command_writes_what_the_stage_left(folder: Path, tmp_path: Path) -> None:
    for adapter in (folder / ADAPTER, folder):
        done = merge(adapter, tmp_path / "merged.safetensors", "--base", folder / "start.safetensors")
        assert done.exit_code == 0, done.output
        assert f"merged.safetensors: {len(load_file(folder / 'model.safetensors'))} tensors" in done.stdout
        assert (tmp_path / "merged.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_another_base_another_file_and_none_are_one_line(folder: Path, tmp_path: Path) -> None:
    start = load_file(folder / "start.safetensors")
    start["vision_encoder.post_layernorm.bias"][3] += 1e-6
    save_file(start, tmp_path / "other.safetensors")
    del start["vision_encoder.post_layernorm.bias"]
    save_file(start, tmp_path / "less.safetensors")
    start_file = folder / "start.safetensors"
    for adapter, base, said in (
        (folder, tmp_path / "other.safetensors", " stage fine_tuning of mine "),
        (folder, tmp_path / "less.safetensors", " stage fine_tuning of mine "),
        (folder, tmp_path / "none.safetensors", "none.safetensors: "),
        (start_file, start_file, f" {ADAPTER}"),
        (tmp_path, start_file, f" {ADAPTER}"),
    ):
        done = merge(adapter, tmp_path / "merged.safetensors", "--base", base)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert said in done.stderr
    assert not list(tmp_path.glob("merged*"))
