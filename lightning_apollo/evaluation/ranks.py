"""Ranks of a distributed evaluation, as started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

WAIT = timedelta(hours=24)  # for the slowest rank

Made = TypeVar("Made")


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world_size: int

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def first_to_last(self, make: Callable[[], Made]) -> Made:
        """Result of `make`, which the first rank calls before the others: they find what it has written."""
        if self.rank > 0:
            self.wait()
            return make()
        try:
            return make()
        finally:
            self.wait()


ONE_PROCESS = Ranks(rank=0, world_size=1)


@contextmanager
def join_ranks() -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun has started, or one process, and the device of this one.

    They tell each other nothing but that they are there, so that gloo serves on every machine.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "WORLD_SIZE" not in os.environ:
        yield ONE_PROCESS, device
        return
    distributed.init_process_group("gloo", timeout=WAIT)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
