"""Fixtures and environment of every test. Triton reads TRITON_INTERPRET when it is first imported, so it is set before that."""

import os
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.loopback import bring_up
from tests.warm import warm

HAS_GPU = torch.cuda.is_available()

if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what deterministic algorithms need on a GPU
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

bring_up()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)  # also fills fresh memory with NaN: nothing may read what it has not written


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _warm_stages() -> Iterator[None]:
    """Processes of stages, which `run_recipe` starts, are forks of a warm Python."""
    with pytest.MonkeyPatch.context() as patch:
        if fit := sys.modules.get("lightning_apollo.runs.fit"):
            run = fit.run_passing_signals_on
            patch.setattr(fit, "run_passing_signals_on", lambda command: run(warm(*command[1:])))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    if HAS_GPU:
        return
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=needs_gpu)
    items[:] = [item for item in items if item not in needs_gpu]
