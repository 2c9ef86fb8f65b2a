"""What a finished stage leaves behind."""

import json
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_apollo.files import write_atomically
from lightning_apollo.models.adapter_file import AdapterOrigin, save_adapted
from lightning_apollo.models.checkpoints import save_weights
from lightning_apollo.models.weight_files import ADAPTER
from lightning_apollo.training.master_weights import named_masters

WEIGHTS = "model.safetensors"
DONE = "done.json"


class StageExport(Callback):
    """Writes the weights and then `done.json` into the stage's folder, each all or nothing, when training ends.

    Of a stage that held its weights in bfloat16, those that trained are written in float32 (see master_weights.py).
    Of a stage with adapters the weights are merged, so that all that reads weights reads them, and `adapter.safetensors`
    has what was trained.
    `done.json` has the number of steps, the loss of the last one, the time, and `facts` that a later run compares.
    """

    def __init__(self, folder: Path, facts: dict[str, str | None], adapters: AdapterOrigin | None = None) -> None:
        self.folder = folder
        self.facts = facts
        self.adapters = adapters

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        model = pl_module.get_submodule("model")
        masters = named_masters(model, trainer.optimizers)
        if self.adapters is None:  # every rank, here and below: each may hold slices of the weights
            save_weights(model, self.folder / WEIGHTS, masters)
        else:
            save_adapted(model, self.adapters, self.folder / WEIGHTS, self.folder / ADAPTER, masters)
        if not trainer.is_global_zero:
            return
        done = {
            "steps": trainer.global_step,
            "loss": float(trainer.callback_metrics["loss"]),
            "finished": datetime.now(UTC).isoformat(),  # tells these weights from any others of the same recipe
            **self.facts,
        }
        with write_atomically(self.folder / DONE) as partial:
            partial.write_text(json.dumps(done, indent=2) + "\n")
