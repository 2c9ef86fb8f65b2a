"""Training progress on the terminal."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lightning_apollo.progress import Bars, bars


class StepProgress(ProgressBar):
    """One bar for a whole stage, over its optimizer steps, with the loss of the last one."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._is_enabled = True
        self._bar: Bars | None = None

    def disable(self) -> None:
        """Lightning calls this on every rank but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        self._is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_enabled:
            return
        self._bar = bars("steps · loss {task.fields[loss]:.3f}")
        self._bar.add_task(self.title, total=trainer.estimated_stepping_batches, loss=float("nan"))
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            loss = trainer.progress_bar_metrics.get("loss", float("nan"))
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, loss=loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
