"""What a finished stage leaves behind."""

import json
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.models.checkpoints import save_weights

WEIGHTS = "model.safetensors"
DONE = "done.json"


class StageExport(Callback):
    """Writes the weights and then `done.json` into the stage's folder, each all or nothing, when training ends.

    `done.json` has the number of steps, the loss of the last one, the time, and `facts` that a later run compares.
    """

    def __init__(self, folder: Path, facts: dict[str, str | None]) -> None:
        self.folder = folder
        self.facts = facts

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(
            pl_module.get_submodule("model"), self.folder / WEIGHTS
        )  # every rank: each may hold slices of them
        if not trainer.is_global_zero:
            return
        done = {
            "steps": trainer.global_step,
            "loss": float(trainer.callback_metrics["loss"]),
            "finished": datetime.now(UTC).isoformat(),  # tells these weights from any others of the same recipe
            **self.facts,
        }
        partial = self.folder / f"{DONE}.partial"
        partial.write_text(json.dumps(done, indent=2) + "\n")
        partial.replace(self.folder / DONE)
