"""Several ranks against one process: whatever each rank's batch holds, the step ends and its gradient is that of one full batch.

Rank 0 has text alone while the last ranks have the media, and ranks differ in how many chunks of clips they encode. The
steps run in rank_steps.py, through Stage and Lightning's Trainer; the reference here is plain PyTorch, a sample at a time.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.launch import launch
from tests.models.samples import pack
from tests.training.rank_steps import Case, build, cases, rounded_case, samples

Results = Callable[[Case], dict]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def on_four(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(4, tmp_path_factory.mktemp("four"))


def results_of(num_ranks: int, folder: Path) -> Results:
    """Run every case in one start of that many ranks."""
    target = "tests.training.rank_steps:run_cases"
    run = launch(num_ranks, target, str(folder), "ddp", "fsdp", deadline_seconds=500)
    assert run.returncode == 0, run.stdout
    return lambda case: torch.load(folder / f"{case.name}.pt", weights_only=True)


@cache
def reference(is_clips: bool, is_rounded: bool = False) -> dict[str, Tensor]:
    """The gradient of the mean over all labelled tokens of all samples, of every parameter."""
    model, num_labels = build(is_clips), 0
    if is_rounded:
        model = model.bfloat16().double()
    for one in samples(is_clips):
        output = model(pack(one))
        functional.cross_entropy(output.logits, output.targets, reduction="sum").backward()
        num_labels += output.targets.numel()
    return {name: p.grad / num_labels for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients(case: Case, result: dict) -> None:
    prefixes = tuple({"vision": "vision_encoder."}.get(name, f"{name}.") for name in case.trains)
    expected = {name: gradient for name, gradient in reference(case.is_clips).items() if name.startswith(prefixes)}
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in expected.values()]))
    assert result["norm"].item() == pytest.approx(norm.item(), rel=1e-9)
    scale = min(1.0, case.gradient_clip / (norm.item() + 1e-6)) if case.gradient_clip else 1.0
    assert result["gradients"].keys() == expected.keys()
    for name, gradient in expected.items():
        # The gradient of a key's bias is 0 but for rounding: softmax does not see what all keys share
        tolerance = max(1e-9 * gradient.abs().max().item() * scale, 1e-14)
        torch.testing.assert_close(result["gradients"][name], gradient * scale, rtol=1e-9, atol=tolerance, msg=name)


def test_every_reference_is_there_to_compare_with() -> None:
    for is_clips in (False, True):
        model = build(is_clips)
        assert reference(is_clips).keys() == {name for name, _ in model.named_parameters()}
        assert all(gradient.any() for gradient in reference(is_clips).values())


@pytest.mark.parametrize("case", [*cases("ddp"), *cases("fsdp")], ids=lambda case: case.name)
def test_the_gradient_of_two_ranks_is_that_of_one_full_batch(case: Case, on_two: Results) -> None:
    assert_gradients(case, on_two(case))


def assert_rounded(result: dict) -> None:
    """The sum over micro-batches and ranks is exact to what rounding inside one backward pass leaves."""
    found = result["gradients"]
    expected = reference(is_clips=False, is_rounded=True)
    assert found.keys() == expected.keys()
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    error, size = (
        torch.linalg.vector_norm(torch.cat([part.flatten() for part in parts]))
        for parts in ([found[name] - expected[name] for name in expected], expected.values())
    )
    assert error < 0.02 * size


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_gradient_of_bfloat16_weights_is_summed_in_float32(strategy: str, on_two: Results) -> None:
    assert_rounded(on_two(rounded_case(strategy, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*cases("ddp"), *cases("fsdp")], ids=lambda case: case.name)
def test_the_gradient_of_four_ranks_is_that_of_one_full_batch(case: Case, on_four: Results) -> None:
    assert_gradients(case, on_four(case))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_gradient_of_bfloat16_weights_is_summed_in_float32_on_four_ranks(strategy: str, on_four: Results) -> None:
    assert_rounded(on_four(rounded_case(strategy, 4)))
