"""Recipes under trainer.precision=bf16-true: weights that a stage writes and the next one loads."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from tests.small_recipe import recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two stages; the rates of the second are so small that it leaves what it starts from."""
    rates = (f"stages.videos.trains.{name}=1e-30" for name in ("vision", "connector", "llm"))
    one = recipe(
        tmp_path_factory.mktemp("bfloat16"), "trainer.precision=bf16-true", "trainer.blank_media_check=false", *rates
    )
    for name in one.stages:
        run_stage(one, name)
    return one


def weights(one: Recipe, stage: str) -> dict[str, Tensor]:
    return load_file(stage_folder(one, stage) / "model.safetensors")


def test_a_stage_leaves_in_float32_what_it_trained(trained: Recipe) -> None:
    dtypes = {name: tensor.dtype for name, tensor in weights(trained, "adapt").items()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("llm.")} == {torch.bfloat16}  # frozen
    assert {dtype for name, dtype in dtypes.items() if not name.startswith("llm.")} == {torch.float32}


def test_the_next_stage_starts_from_every_bit_of_it(trained: Recipe) -> None:
    before, after = (weights(trained, name) for name in ("adapt", "videos"))
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    lost = 0
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name].float(), rtol=0.0, atol=1e-20, msg=name)
        lost += int((tensor.bfloat16().float() != tensor).sum())
    assert lost > 0  # of a start that is rounded
