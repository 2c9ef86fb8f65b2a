"""Forward passes between steps that change nothing of the training around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_apollo.training.callbacks.resume import random_states, set_random_states


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
