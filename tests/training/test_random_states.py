"""Random states of ranks: other dropout masks on each, and the first rank's are those of a run of one."""

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from lightning_apollo.training.callbacks.resume import ExactResume
from lightning_apollo.training.random_states import random_states, set_random_states

Stage: Any = None


def mask(rank: int, checkpoint: dict[str, Any] | None = None) -> torch.Tensor:
    """Dropout mask of the first micro-batch of a rank of two; all ranks have made the same weights before."""
    torch.manual_seed(0)
    torch.randn(100)
    trainer: Any = SimpleNamespace(
        global_rank=rank, world_size=2, accumulate_grad_batches=1, estimated_stepping_batches=4
    )
    resume = ExactResume()
    if checkpoint is not None:
        resume.on_load_checkpoint(trainer, Stage, checkpoint)
    resume.on_train_start(trainer, Stage)
    resume.on_train_batch_start(trainer, Stage, None, 0)
    return functional.dropout(torch.ones(1000), 0.5).bool()


def test_ranks_draw_other_masks_and_the_first_those_of_one_process() -> None:
    before = random_states()
    torch.manual_seed(0)
    torch.randn(100)
    alone = functional.dropout(torch.ones(1000), 0.5).bool()
    masks = [mask(rank) for rank in range(4)]
    assert torch.equal(masks[0], alone)
    for rank in range(1, 4):
        assert torch.equal(masks[rank], mask(rank))  # the same in another run
        for other in range(rank):
            agree = (masks[rank] == masks[other]).float().mean().item()
            assert 0.4 < agree < 0.6  # of 1000 fair coins: 6 deviations
    set_random_states(before)


def test_a_resumed_rank_has_its_own_states_back() -> None:
    before = random_states()
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(random_states())
    counts = {"ready": 2, "started": 2, "processed": 2, "completed": 1}
    checkpoint = {
        "exact_resume": {"random_states": states, "accumulated": 1},
        "loops": {"fit_loop": {"epoch_loop.batch_progress": {"total": counts, "current": dict(counts)}}},
    }
    for rank, seed in enumerate((5, 6)):
        resumed = mask(rank, checkpoint)
        torch.manual_seed(seed)
        assert torch.equal(resumed, functional.dropout(torch.ones(1000), 0.5).bool())
    set_random_states(before)
