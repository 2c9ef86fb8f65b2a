"""Random states of a process, and forward passes that leave them and the model as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; modes and random states are put back behind it."""
    states, modes = random_states(), [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
        set_random_states(states)


def random_states() -> dict[str, Tensor]:
    """The states of Python's, NumPy's, PyTorch's and the current GPU's generators, as tensors."""
    _, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    if gauss is not None or numpy_state["has_gauss"]:
        raise RuntimeError("a generator holds half of a pair of normal numbers: draw them with torch in training code")
    states = {
        "python": torch.tensor(words),
        "numpy": torch.tensor([*numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Put `random_states` back."""
    random.setstate((3, tuple(states["python"].tolist()), None))
    *keys, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, 0, 0.0))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
