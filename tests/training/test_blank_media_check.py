"""BlankMediaCheck: right figures, warnings for blind models and unchanged training."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import FrameLMM, VideoLMM, build_model
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.stages import StageConfig
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import IGNORE_INDEX, Frames, PackedBatch, Sample, VisualItem
from lightning_apollo.training.callbacks.blank_media_check import (
    SMALLEST_GAP,
    BlankMediaCheck,
    BlankMediaReport,
    blank_media_lines,
)
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.training.config import OptimizerConfig
from tests.launch import launch
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer
from tests.small_recipe import recipe
from tests.training.rank_steps import Batches, build, samples

DIFF_FP = ReducerConfig(kind="diff_fp")


def stage_of(model: VideoLMM, rate: float = 1e-3, reducer: ReducerConfig = DIFF_FP) -> Stage:
    config = StageConfig(
        kind="Stage",
        trains=dict.fromkeys(("vision", "connector", "llm"), rate),
        mixture={"any": 1.0},
        image_merge_size=1,
        video_merge_size=2,
        reducer=reducer,
        optimizer=OptimizerConfig(warmup_ratio=0.0),
    )
    return Stage(model, config)


def train(
    model: VideoLMM,
    batches: Sequence[PackedBatch],
    accumulate: int = 1,
    starts_trained: bool = False,
    rate: float = 1e-3,
) -> tuple[list[str], dict[str, float]]:
    """The lines that are said, and what is logged in the last step."""
    said: list[str] = []
    trainer = quiet_trainer(
        accumulate_grad_batches=accumulate, callbacks=[BlankMediaCheck(starts_trained, said.append)]
    )
    trainer.fit(stage_of(model, rate), train_dataloaders=Batches(batches))
    return said, {name: float(value) for name, value in trainer.logged_metrics.items()}


def model_of_frames() -> VideoLMM:
    torch.manual_seed(0)
    return build_model(MODEL, DIFF_FP)


def greyed(one: Sample) -> Sample:
    items = (
        replace(v, frames=Frames(torch.full_like(v.frames.pixels, 128), v.frames.pts_seconds)) for v in one.visuals
    )
    return replace(one, visuals=tuple(items))


def summed_loss(model: VideoLMM, some: Sequence[Sample]) -> float:
    """Nats over the labels of samples, one after the other."""
    with torch.no_grad():
        outputs = [model(pack(one)) for one in some]
    return sum(functional.cross_entropy(out.logits, out.targets, reduction="sum").item() for out in outputs)


def test_the_losses_are_those_of_the_samples_that_show_something() -> None:
    """Two micro-batches of a step: a video whose right half stands still beside text alone, then an image."""
    mixed = [sample(video(3, 28, 56, 1, static=True), seed=1), sample(seed=2, num_text=20)]
    single = [sample(image(28, 42, 3), seed=3, num_text=8)]
    model = model_of_frames()
    plain = build_model(MODEL, ReducerConfig())  # drops nothing
    plain.load_state_dict(model.state_dict())
    shown = [mixed[0], single[0]]
    num_labels = sum(one.num_labels for one in shown)
    loss, blank = (summed_loss(plain.eval(), some) / num_labels for some in (shown, [greyed(one) for one in shown]))

    said, metrics = train(model, [pack(*mixed), pack(*single)], accumulate=2)
    assert metrics["blank_media/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["blank_media/blank_loss"] == pytest.approx(blank, rel=1e-5)
    assert metrics["blank_media/loss_gap"] == pytest.approx(blank - loss, abs=1e-5)
    num_text = sum(int((~one.is_placeholder).sum()) for one in (*mixed, *single))
    assert metrics["blank_media/label_share"] == pytest.approx((6 + 10 + 4) / num_text)
    assert said == [said[0]]
    assert f"loss {loss:.3f} with the media and {blank:.3f} with grey ones" in said[0]


def test_a_step_of_text_alone_has_no_gap() -> None:
    said, metrics = train(model_of_frames(), [pack(sample(seed=1))])
    assert [name for name in metrics if name.startswith("blank_media/")] == ["blank_media/label_share"]
    assert said == ["first step: 40% of the text is learned; nothing in it shows an image or video"]


def _zeroed(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output * 0


@pytest.mark.parametrize("starts_trained", [False, True])
def test_a_blind_model_is_called_blind_at_both_ends(starts_trained: bool) -> None:
    model = model_of_frames()
    model.connector.register_forward_hook(_zeroed)
    batches = [pack(sample(video(2, 28, 56, seed), seed=seed)) for seed in range(3)]
    said, metrics = train(model, batches, starts_trained=starts_trained)
    first, first_warning, last, last_warning = said
    assert first.startswith("first step: ")
    assert last.startswith("last step: ")
    assert ("the start weights cannot see" if starts_trained else "exactly the same loss") in first_warning
    assert "the trained model cannot see" in last_warning
    assert all(warning.startswith("warning: ") for warning in (first_warning, last_warning))
    assert metrics["blank_media/loss_gap"] == 0.0


def test_a_model_that_learned_to_look_is_not_called_blind() -> None:
    """The answer is one of two words, by whether the image is dark or bright."""
    batches = [pack(*(_dark_or_bright(seed) for seed in range(step * 8, step * 8 + 8))) for step in range(40)]
    said, metrics = train(model_of_frames(), batches, rate=3e-3)
    assert [line.split()[0] for line in said] == ["first", "last"]  # and no warning
    assert metrics["blank_media/loss_gap"] > 10 * SMALLEST_GAP


def _dark_or_bright(seed: int) -> Sample:
    is_bright = seed * 7 % 5 > 2
    noise = torch.randint(0, 60, (1, 3, 28, 28), generator=torch.Generator().manual_seed(seed)) + 190 * is_bright
    item = VisualItem(Frames(noise.to(torch.uint8), torch.zeros(1).double()), "image", 1)
    one = sample(item, num_text=4)
    ids, labels = one.input_ids.clone(), torch.full_like(one.labels, IGNORE_INDEX)
    ids[-1] = labels[-1] = 7 + is_bright
    return replace(one, input_ids=ids, labels=labels)


def test_samples_without_a_label_are_counted() -> None:
    silent = sample(image(28, 28, 1), seed=1)
    silent = replace(silent, labels=torch.full_like(silent.labels, IGNORE_INDEX))
    some, _ = train(model_of_frames(), [pack(silent, sample(seed=2))])
    assert some[1].startswith("warning: 1 of 2 samples of the first step carry no label")
    none, metrics = train(model_of_frames(), [pack(silent)])
    assert none[1].startswith("warning: no token of the first step carries a label")
    assert metrics["blank_media/label_share"] == 0.0


@pytest.mark.parametrize(
    ("gap", "is_first", "starts_trained", "is_warned"),
    [
        (1e-5, True, False, False),  # new weights
        (0.0, True, False, True),
        (0.5 * SMALLEST_GAP, True, True, True),
        (-0.5, True, True, False),  # sees, and has something to learn
        (0.5 * SMALLEST_GAP, False, False, True),
        (-0.5, False, True, True),
        (2 * SMALLEST_GAP, False, True, False),
    ],
)
def test_when_a_gap_is_a_warning(gap: float, is_first: bool, starts_trained: bool, is_warned: bool) -> None:
    report = BlankMediaReport(10, 20, 2, 0, 10, loss_sum=10.0, blank_loss_sum=10.0 + 10 * gap)
    assert [line.startswith("warning") for line in blank_media_lines(report, is_first, starts_trained)] == [
        False,
        True,
    ][: 1 + is_warned]


def test_only_the_first_and_last_step_are_measured() -> None:
    """A stage that resumes at step 5 of 10 has its first step behind it; what is not measured is not even looked at."""
    trainer: Any = SimpleNamespace(global_step=5, estimated_stepping_batches=10)
    nothing: Any = None
    BlankMediaCheck(False, lambda line: None).on_train_batch_start(trainer, nothing, nothing, 0)


class _Draws(nn.Module):
    """Draw a number whenever it runs, in evaluation too."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 0 * torch.rand(1)


@pytest.mark.parametrize("is_trial", [False, True])
def test_dropout_draws_the_same_numbers(is_trial: bool) -> None:
    """Weights with dropout, bit for bit, with and without; the trial draws a number in between and shows that it counts."""

    class Draw(BlankMediaCheck):
        def on_train_batch_end(self, *arguments: Any, **values: Any) -> None:
            torch.rand(1)

    shown = [sample(video(2, 28, 56, seed), seed=seed) for seed in range(3)]
    states: list[dict[str, Tensor]] = []
    said: list[str] = []
    loss = ""
    for callbacks in ([], [(Draw if is_trial else BlankMediaCheck)(False, said.append)]):
        model = model_of_frames()
        model.connector = nn.Sequential(model.connector, nn.Dropout(0.5), _Draws())
        loss = f"loss {summed_loss(model.eval(), shown[:1]) / shown[0].num_labels:.3f} with the media"
        torch.manual_seed(1)
        stage = stage_of(model)
        quiet_trainer(callbacks=callbacks).fit(stage, train_dataloaders=Batches([pack(one) for one in shown]))
        assert all(module.training for module in stage.modules())
        assert isinstance(model, FrameLMM)
        assert model.reducer == DIFF_FP
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    is_same = all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert is_same != is_trial
    assert loss in said[0]  # without dropout


def _videos(folder: Path, shapes: Path, *words: str) -> Recipe:
    folder.mkdir(exist_ok=True)
    one = recipe(folder, f"data.root={shapes}", f"output={folder}", *words)
    return replace(one, stages={"videos": one.stages["videos"]})


def test_a_stage_logs_it_and_leaves_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on, off = (
        _videos(tmp_path / word, tmp_path / "shapes", f"trainer.blank_media_check={word}") for word in ("true", "false")
    )
    run_stage(on, "videos")
    said = capsys.readouterr().out
    assert "first step: " in said
    assert "last step: " in said
    run_stage(off, "videos")
    assert "step: " not in capsys.readouterr().out
    folders = stage_folder(on, "videos"), stage_folder(off, "videos")
    assert (folders[0] / WEIGHTS).read_bytes() == (folders[1] / WEIGHTS).read_bytes()
    first, middle, last = _rows(folders[0] / "metrics.csv")
    for row in (first, last):
        gap = float(row["blank_media/blank_loss"]) - float(row["blank_media/loss"])
        assert float(row["blank_media/loss_gap"]) == pytest.approx(gap, abs=1e-5)
        assert 0 < float(row["blank_media/label_share"]) < 1
    assert middle["blank_media/loss_gap"] == ""
    assert [row["loss"] for row in (first, middle, last)] == [row["loss"] for row in _rows(folders[1] / "metrics.csv")]
    assert not [name for name in _rows(folders[1] / "metrics.csv")[0] if name.startswith("blank_media/")]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_ranks_of_which_one_has_text_alone(tmp_path: Path) -> None:
    strategies = ("ddp", "fsdp")
    done = launch(2, "tests.training.rank_blank_media_check:run", str(tmp_path), *strategies)
    assert done.returncode == 0, done.stdout
    for is_clips in (False, True):
        model, shown = build(is_clips).eval(), samples(is_clips)[4:]
        loss, blank = (summed_loss(model, some) for some in (shown, [greyed(one) for one in shown]))
        num_labels = sum(one.num_labels for one in shown)
        for strategy in strategies:
            first, second = (torch.load(tmp_path / f"{strategy}-{is_clips}-{rank}.pt") for rank in range(2))
            assert first["is_same"]
            assert second["is_same"]
            assert first["metrics"]["blank_media/loss"] == pytest.approx(
                loss / num_labels, rel=1e-6
            )  # logged in float32
            assert first["metrics"]["blank_media/loss_gap"] == pytest.approx((blank - loss) / num_labels, rel=1e-6)
            assert [line.split()[0] for line in first["said"]] == ["first"]
            assert second["said"] == []
