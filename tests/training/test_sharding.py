"""Sliced training: placement and types of parameters. Saving, resuming and consolidation lose no bit.

The runs are in rank_checkpoints.py: two ranks, sliced (fsdp) and with whole copies (ddp), dropout and recomputation on.
"""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file

from lightning_apollo.models.checkpoint.load import load_weights
from lightning_apollo.structures import WeightsError
from lightning_apollo.training.consolidate import consolidate
from lightning_apollo.training.sharding import build_strategy
from tests.launch import launch
from tests.training.rank_checkpoints import RUNS, build

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = launch(2, "tests.training.rank_checkpoints:run", str(folder))
    assert run.returncode == 0, run.stdout
    return folder


def facts(runs: Path, rank: int) -> dict:
    return torch.load(runs / f"facts{rank}.pt", weights_only=True)


def assert_equal_files(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_resumes_ends_with_the_weights_of_one_that_never_stopped(runs: Path, run: str) -> None:
    straight, resumed = (runs / run / name / WEIGHTS for name in ("straight", "resumed"))
    assert straight.read_bytes() == resumed.read_bytes()
    start = dict(build().state_dict())
    assert not any(torch.equal(tensor, start[name]) for name, tensor in load_file(straight).items())  # it trained


@pytest.mark.parametrize("run", RUNS)
def test_a_checkpoint_becomes_the_file_that_the_stage_leaves(runs: Path, run: str, tmp_path: Path) -> None:
    last, middle = (runs / run / "straight" / "checkpoints" / f"step-{step:08d}.ckpt" for step in (4, 2))
    assert last.is_dir() == run.startswith("fsdp")
    output = tmp_path / WEIGHTS
    assert consolidate(last, output) == len(load_file(output))
    assert_equal_files(output, runs / run / "straight" / WEIGHTS)
    assert {tensor.dtype for tensor in load_file(output).values()} == {torch.float32}  # masters of bfloat16 weights
    assert "llm.lm_head.weight" not in load_file(output)  # tied: the embeddings have it
    consolidate(middle, output)
    with pytest.raises(AssertionError):
        assert_equal_files(output, runs / run / "straight" / WEIGHTS)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("run", RUNS)
def test_masters_start_from_what_bfloat16_weights_were_rounded_from(runs: Path, run: str) -> None:
    masters = facts(runs, 1)["masters"][run]
    expected = dict(build().named_parameters()) if run.endswith("bfloat16") else {}
    assert masters.keys() == expected.keys()
    assert all(torch.equal(masters[name], weight) for name, weight in expected.items())


def test_sliced_and_whole_training_end_alike(runs: Path) -> None:
    """In float32, whose sums differ in their order; dropout is drawn alike on the same rank."""
    sliced, whole = (load_file(runs / f"{strategy}-float32" / "straight" / WEIGHTS) for strategy in ("fsdp", "ddp"))
    assert sliced.keys() == whole.keys()
    for name, tensor in sliced.items():
        # Adam turns rounding of a gradient of 0 (of keys' biases) into steps of the rate, so those may part by all of them
        tolerance = 5e-3 if name.endswith("k_proj.bias") else 1e-4
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=tolerance, msg=name)


def test_the_weights_of_sliced_training_load_into_a_whole_model(runs: Path) -> None:
    model = build(seed=5)
    load_weights(model, runs / "fsdp-float32" / "straight" / WEIGHTS)
    saved = load_file(runs / "fsdp-float32" / "straight" / WEIGHTS)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items() if name in saved)
    assert model.llm.get_input_embeddings().weight is model.llm.get_output_embeddings().weight


def test_every_rank_holds_its_share_alone(runs: Path) -> None:
    num_parameters = sum(parameter.numel() for parameter in build().parameters())
    owned = [facts(runs, rank)["num_own"] for rank in range(2)]
    assert sum(owned) == num_parameters
    assert max(owned) < 0.55 * num_parameters
    assert facts(runs, 0)["sharded"] == [
        "",
        "connector",
        "llm.model.layers.0",
        "llm.model.layers.1",
        "vision_encoder.encoder.layers.0",
        "vision_encoder.encoder.layers.1",
    ]


def test_bfloat16_is_for_what_runs_and_float32_for_what_is_kept(runs: Path) -> None:
    found = facts(runs, 0)
    assert (found["running"], found["gradients"], found["weights"]) == (
        "{torch.bfloat16}",
        "{torch.float32}",
        "{torch.float32}",
    )
    assert found["loss"] == pytest.approx(found["loss_in_float32"], rel=0.02)


def test_a_strategy_is_found_by_its_name() -> None:
    assert isinstance(build_strategy("fsdp"), ModelParallelStrategy)
    assert [build_strategy(name) for name in ("auto", "ddp")] == ["auto", "ddp"]


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="such checkpoint"):
        consolidate(tmp_path / "none", tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match=r"meta\.pt"):
        consolidate(tmp_path, tmp_path / WEIGHTS)
    torch.save({"state_dict": {"other.weight": torch.ones(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="weights"):
        consolidate(tmp_path / "other.ckpt", tmp_path / WEIGHTS)
    torch.save({"state_dict": {"model.llm.q_proj.lora_A.default.weight": torch.ones(1)}}, tmp_path / "adapted.ckpt")
    with pytest.raises(WeightsError, match=r"adapters.*`fit --resume`"):
        consolidate(tmp_path / "adapted.ckpt", tmp_path / WEIGHTS)
