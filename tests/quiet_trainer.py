"""Silent Trainer on the CPU for one pass."""

from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(**values: Any) -> Trainer:
    """`values` are the Trainer's, in the place of these or beside them."""
    chosen: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return Trainer(**{**chosen, **values})
