"""Rank and world size, as launchers set them in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lightning_apollo.errors import UserError


@dataclass(frozen=True)
class Rank:
    """This process among those of its launcher."""

    rank: int
    world_size: int
    local_rank: int
    address: str  # where the store is
    port: int
    is_stored_by_agent: bool


def launched() -> Rank | None:
    """This rank where torchrun, srun or a launcher with its variables has started several; else None."""
    get = os.environ.get
    if "RANK" in os.environ and int(get("WORLD_SIZE", "1")) > 1:
        numbers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(get("LOCAL_RANK", "0"))
        is_agents = get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return Rank(*numbers, get("MASTER_ADDR", "127.0.0.1"), int(get("MASTER_PORT", "12910")), is_agents)
    if "SLURM_PROCID" not in os.environ or int(get("SLURM_NTASKS", "1")) == 1:
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect():
        return None
    slurm = SLURMEnvironment(auto_requeue=False)
    numbers = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]), int(get("SLURM_LOCALID", "0"))
    return Rank(*numbers, slurm.main_address, slurm.main_port, is_stored_by_agent=False)


@contextmanager
def errors_to_all_ranks() -> Iterator[None]:
    """End all ranks with the UserError of one of them, such as that of a machine that lacks a file."""
    try:
        yield
    except UserError as error:
        if launched() is not None:
            from lightning_apollo.training.processes.agreement import tell  # which imports torch

            tell(error)
        raise
