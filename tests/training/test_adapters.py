"""Adapters of several ranks: sliced and whole training leave the same files, which merge onto the start weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_apollo.models.checkpoint.adapter import merge_files
from lightning_apollo.models.checkpoint.files import ADAPTER
from lightning_apollo.training.callbacks.export import WEIGHTS
from tests.launch import launch
from tests.tolerances import MODEL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    run = launch(2, "tests.training.rank_adapters:run", str(folder))
    assert run.returncode == 0, run.stdout
    return folder


def test_sliced_and_whole_training_leave_the_same_adapters(runs: Path) -> None:
    sliced, whole = (load_file(runs / f"{strategy}-float32" / ADAPTER) for strategy in ("fsdp", "ddp"))
    assert sliced.keys() == whole.keys()
    assert all(tensor.any() for name, tensor in whole.items() if ".lora_B." in name)  # they trained
    for name, tensor in sliced.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=MODEL[torch.float32], msg=name)


@pytest.mark.parametrize("run", ["ddp-float32", "fsdp-float32", "fsdp-bfloat16"])
def test_what_ranks_leave_merges_onto_what_they_started_from(run: str, runs: Path, tmp_path: Path) -> None:
    folder = runs / run
    merge_files(str(folder / "start.safetensors"), folder / ADAPTER, tmp_path / WEIGHTS)
    assert (tmp_path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    held = getattr(torch, run.partition("-")[2])
    for name, tensor in load_file(folder / WEIGHTS).items():  # the connector trained as a whole: its master weights
        assert tensor.dtype == (torch.float32 if name.startswith("connector.") else held), name
