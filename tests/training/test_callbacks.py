"""Visible output of a stage: progress bar, weights and done.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_apollo.training.callbacks.checkpoint import CheckpointError
from lightning_apollo.training.callbacks.export import StageExport
from lightning_apollo.training.callbacks.progress import StepProgress
from tests.quiet_trainer import quiet_trainer


class Batches:
    def __iter__(self) -> Any:
        return iter(torch.ones(6, 1))

    def __len__(self) -> int:
        return 6


class Line(LightningModule):
    """A model of one weight and a tied second name for it; `fails_at` raises at that batch."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        self.model[1].weight = self.model[0].weight
        self.fails_at = fails_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == self.fails_at:
            raise RuntimeError("the sixth batch is one too many")
        loss = self.model(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(*callbacks: Any, progress_bar: bool = True) -> Trainer:
    return quiet_trainer(
        accumulate_grad_batches=2,
        callbacks=list(callbacks),
        enable_progress_bar=progress_bar,
    )


def test_the_bar_counts_optimizer_steps(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(StepProgress("align")).fit(Line(), train_dataloaders=Batches())
    shown = capsys.readouterr().out
    assert "align" in shown
    assert "3/3 steps · loss 0." in shown


def test_the_bar_is_put_away_when_training_fails() -> None:
    bar = StepProgress("align")
    with pytest.raises(RuntimeError, match="one too many"):
        trainer(bar).fit(Line(fails_at=5), train_dataloaders=Batches())
    assert bar._bar is None


def test_a_finished_stage_leaves_weights_and_facts(tmp_path: Path) -> None:
    line = Line()
    trainer(StageExport(tmp_path / "stage", {"fingerprint": "abc", "started_from": None}), progress_bar=False).fit(
        line, train_dataloaders=Batches()
    )
    state = load_file(tmp_path / "stage" / "model.safetensors")
    assert set(state) == {"0.weight", "0.bias", "1.bias"}  # the tied weight once
    assert torch.equal(state["0.weight"], line.get_parameter("model.0.weight"))
    done = json.loads((tmp_path / "stage" / "done.json").read_text())
    assert (done["steps"], done["fingerprint"], done["started_from"]) == (3, "abc", None)
    assert done["loss"] > 0
    assert {path.name for path in (tmp_path / "stage").iterdir()} == {"model.safetensors", "done.json"}


@pytest.mark.parametrize("name", ["model.safetensors", "done.json"])
def test_a_file_that_cannot_be_written_ends_the_run_in_one_line(name: str, tmp_path: Path) -> None:
    """A folder lies in its place."""
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError) as caught:
        trainer(StageExport(tmp_path, {}), progress_bar=False).fit(Line(), train_dataloaders=Batches())
    assert str(caught.value) == (
        f"the weights of this stage are not in {tmp_path}: Is a directory; there is no checkpoint: put that right and "
        "finish the stage with --resume"
    )
    assert not (tmp_path / "done.json").is_file()


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="one too many"):
        trainer(StageExport(tmp_path / "stage", {}), progress_bar=False).fit(
            Line(fails_at=5), train_dataloaders=Batches()
        )
    assert not (tmp_path / "stage").exists()
