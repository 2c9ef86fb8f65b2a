"""Step times by a clock that only the tests move, and on two processes by a rank that sleeps."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_apollo.models.config import ModelConfig, ReducerConfig
from lightning_apollo.models.flops import BatchSizes, count_flops
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.stages import StageConfig
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.timing import step_time as step_time_module
from lightning_apollo.training.timing import timeline
from lightning_apollo.training.timing.bottleneck import PARTS, DataSeconds
from lightning_apollo.training.timing.step_time import StepTime
from tests.launch import launch
from tests.models.clips import CLIP_MODEL, FRAMES, clip_item, clip_pixels
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer

ALL = {"vision": 1e-3, "connector": 1e-3, "llm": 1e-3}
OPTIMIZER = OptimizerConfig(warmup_ratio=0)  # a stage of one step would have none of which the rate is above 0


class Clock:
    """Stand still but where it is told to move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> Any:
        """A hook of a module, in which time passes."""

        def hook(*_: object) -> None:
            self.seconds += seconds

        return hook


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timeline, "perf_counter", clock)
    return clock


class Batches:
    """Batches, each of which `before` is called for; `account` is what it cost to make them."""

    def __init__(self, batches: Sequence[PackedBatch], before: Any = lambda: None, decode: float = 0.0) -> None:
        self.batches, self.before, self.decode = batches, before, decode
        self.account = DataSeconds(0.0, 0.0)

    def __iter__(self) -> Iterator[PackedBatch]:
        for batch in self.batches:
            self.before()
            self.account = DataSeconds(self.account.prepare + 2 * self.decode, self.account.decode + self.decode)
            yield batch

    def __len__(self) -> int:
        return len(self.batches)


class Watched:
    """A fit under a StepTime: what it logged of each step, and what it said."""

    def __init__(self, stage: Stage, batches: Batches, folder: Path, config: ModelConfig = MODEL, **trainer: Any):
        self.said: list[str] = []
        self.stage = stage
        flops = partial(lambda sizes: count_flops(config, sizes, stage.config.trains).total)
        self.step_time = StepTime(lambda: batches.account, flops, torch.float32, self.said.append)
        self.trainer = quiet_trainer(
            callbacks=[self.step_time],
            profiler=self.step_time.profiler,
            logger=CSVLogger(folder, name="", version=""),
            **{"log_every_n_steps": 1, **trainer},
        )
        self.batches, self.file = batches, folder / "metrics.csv"

    def fit(self) -> list[dict[str, float]]:
        self.trainer.fit(self.stage, train_dataloaders=self.batches)
        with self.file.open() as lines:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(lines)]


def stage(config: ModelConfig = MODEL, **values: Any) -> Stage:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "trains": ALL,
        "optimizer": OPTIMIZER,
        "image_merge_size": 1,
        "video_merge_size": 2,
        **values,
    }
    return Stage(build_model(config, ReducerConfig("diff_fp") if config is MODEL else ReducerConfig()), StageConfig(
        kind="Stage", mixture={"any": 1.0}, **settings
    ))  # fmt: skip


def batch() -> PackedBatch:
    return pack(sample(image(28, 42, 1), num_text=9), sample(video(2, 28, 56, 2, static=True), num_text=8, seed=1))


def clip_batch() -> PackedBatch:
    items = [clip_item(clip_pixels(FRAMES, 12, 10, seed)) for seed in range(3)]
    return pack(*(sample(item, num_text=9, seed=1, patch_size=4) for item in items))


def slow_parts(stage: Stage, clock: Clock) -> None:
    """Time passes in every component before it runs, and in the backward pass of the LLM."""
    model = stage.model
    model.vision_encoder.register_forward_pre_hook(clock.passes(0.5))
    model.connector.register_forward_pre_hook(clock.passes(0.25))
    model.llm.base_model.register_forward_pre_hook(clock.passes(2.0))
    model.llm.get_submodule("lm_head").register_full_backward_hook(clock.passes(4.0))


def test_every_second_is_in_the_part_that_it_was_spent_in(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = stage()
    slow_parts(slow, clock)
    monkeypatch.setattr(slow, "transfer_batch_to_device", lambda batch, *_: (clock.passes(0.125)(), batch)[1])
    monkeypatch.setattr(
        slow, "on_before_optimizer_step", lambda *_: (clock.passes(8.0)(), Stage.on_before_optimizer_step(slow, *_))[1]
    )
    monkeypatch.setattr(slow, "on_train_batch_end", clock.passes(16.0))
    rows = Watched(slow, Batches([batch()] * 3, clock.passes(1.0), decode=0.375), tmp_path).fit()
    parts = {"wait": 1, "transfer": 0.125, "vision": 0.5, "connector": 0.25, "llm": 2, "backward": 4, "optimizer": 8}
    expected = {f"time/{part}": parts.get(part, 0.0) for part in PARTS} | {"time/decode": 0.375}
    step = sum(parts.values())
    for row, other in zip(rows, (0.0, 16.0, 16.0), strict=True):  # the end of a step belongs to the next one
        logged = {name: value for name, value in row.items() if name.startswith("time/")}
        assert logged == expected | {"time/other": other, "time/step": step + other}


def test_micro_batches_of_a_step_are_added_up(clock: Clock, tmp_path: Path) -> None:
    slow = stage()
    slow_parts(slow, clock)
    rows = Watched(slow, Batches([batch()] * 6, clock.passes(1.0), 0.25), tmp_path, accumulate_grad_batches=3).fit()
    assert [row["time/step"] for row in rows] == [3 * 7.75] * 2
    assert [(row["time/vision"], row["time/wait"], row["time/decode"]) for row in rows] == [(1.5, 3.0, 0.75)] * 2


def test_what_is_computed_again_belongs_to_the_backward_pass(clock: Clock, tmp_path: Path) -> None:
    slow = stage(CLIP_MODEL, activation_checkpointing=True, video_merge_size=1)
    slow.model.connector.register_forward_pre_hook(clock.passes(1.0))
    (row,) = Watched(slow, Batches([clip_batch()]), tmp_path, CLIP_MODEL).fit()
    assert (row["time/connector"], row["time/backward"], row["time/llm"]) == (1.0, 1.0, 0.0)


def test_chunks_of_clips_are_told_apart(clock: Clock, tmp_path: Path) -> None:
    slow = stage(CLIP_MODEL, video_merge_size=1)
    object.__setattr__(slow.model.vision_encoder.config, "encode_batch_size", 1)  # three chunks
    try:
        slow_parts(slow, clock)
        (row,) = Watched(slow, Batches([clip_batch()]), tmp_path, CLIP_MODEL).fit()
    finally:
        object.__setattr__(slow.model.vision_encoder.config, "encode_batch_size", 25)
    assert (row["time/vision"], row["time/connector"], row["time/llm"]) == (1.5, 0.75, 2.0)


def test_the_bottleneck_leaves_the_first_step_out(clock: Clock, tmp_path: Path) -> None:
    waits = iter([100.0, 1.0, 1.0])
    slow = stage()
    slow.model.llm.base_model.register_forward_pre_hook(clock.passes(3.0))
    watched = Watched(slow, Batches([batch()] * 3, lambda: clock.passes(next(waits))()), tmp_path)
    watched.fit()
    tokens = slow.model.splice(batch()).inputs_embeds.shape[0]
    assert watched.said == [f"compute-bound 75 %: llm · {tokens / 4:,.0f} tokens/s, 0.5 samples/s"]


def test_the_bottleneck_counts_steps_that_are_not_logged(clock: Clock, tmp_path: Path) -> None:
    waits = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    slow = stage()
    slow.model.llm.base_model.register_forward_pre_hook(clock.passes(1.0))
    batches = Batches([batch()] * 5, lambda: clock.passes(next(waits))(), decode=8.0)
    watched = Watched(slow, batches, tmp_path, log_every_n_steps=2)
    assert [row["time/wait"] for row in watched.fit()] == [2.0, 4.0]
    assert watched.said[0].startswith("data-bound 78 %: decode")  # 2 + 3 + 4 + 5 of 18 seconds


def test_utilisation_is_that_of_the_flops_of_the_reduced_batch(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_time_module, "peak_flops", lambda *_: 1e6)
    slow = stage()
    slow.model.llm.base_model.register_forward_pre_hook(clock.passes(8.0))
    watched = Watched(slow, Batches([batch()] * 4), tmp_path, accumulate_grad_batches=2)
    row, _ = watched.fit()
    lengths = slow.model.splice(batch()).lengths
    assert lengths[1] < batch().lengths[1]
    flops = 2 * count_flops(MODEL, BatchSizes.of(batch()).reduced(lengths), ALL).total
    assert row["mfu"] == pytest.approx(flops / (16 * 1e6), rel=1e-6)
    assert watched.said[0].endswith(f"MFU {100 * flops / (16 * 1e6):.1f} %")


def test_watching_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for is_watched in (True, False):
        seed_everything(3, verbose=False)
        plain = stage()
        watched = Watched(plain, Batches([batch()] * 3), tmp_path / str(is_watched))
        if not is_watched:
            for hook in ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_end"):
                monkeypatch.setattr(watched.step_time, hook, lambda *_: None)
        watched.fit()
        assert bool(watched.said) == is_watched
        states.append(plain.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    plain = stage()
    before = hooks(plain)
    Watched(plain, Batches([batch()] * 2), tmp_path / "whole").fit()
    assert hooks(plain) == before

    def fails() -> None:
        raise RuntimeError("no more batches")

    with pytest.raises(RuntimeError, match="no more batches"):
        Watched(plain, Batches([batch()], fails), tmp_path / "failed").fit()
    assert hooks(plain) == before


SLOW = {"data": (0, "time/wait", "data-bound % decode"), "forward": (1, "time/llm", "compute-bound % llm")}


def fit_beside_slow_ranks(folder: str) -> None:
    """Work of each of two ranks: twice four steps, in which one rank sleeps for 0.4 s before its data or its LLM."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    for place, (slow_rank, _, _) in SLOW.items():
        sleep = partial(time.sleep, 0.4 * (rank == slow_rank))
        slow = stage()
        if place == "forward":
            slow.model.llm.base_model.register_forward_pre_hook(lambda *_, sleep=sleep: sleep())
        batches = Batches([batch()] * 4, sleep if place == "data" else lambda: None, decode=0.4)
        watched = Watched(slow, batches, Path(folder) / f"{place}_{rank}", strategy="ddp", devices=2)
        watched.trainer.fit(slow, train_dataloaders=batches)
        metrics = {name: float(value) for name, value in watched.trainer.logged_metrics.items()}
        found = json.dumps({"said": watched.said, "metrics": metrics})
        (Path(folder) / f"{place}_{rank}.json").write_text(found)


@pytest.mark.slow
def test_waiting_for_another_rank_is_communication(tmp_path: Path) -> None:
    done = launch(2, f"{__name__}:fit_beside_slow_ranks", str(tmp_path))
    assert done.returncode == 0, done.stdout
    for place, (slow_rank, column, bound) in SLOW.items():
        ranks = (slow_rank, 1 - slow_rank)
        slow, fast = (json.loads((tmp_path / f"{place}_{rank}.json").read_text()) for rank in ranks)
        assert slow["metrics"][column] > 0.39
        assert fast["metrics"][column] < 0.2
        assert fast["metrics"]["time/communication"] > 0.3
        assert slow["metrics"]["time/communication"] < 0.2
        (said,) = slow["said"] + fast["said"]  # by rank 0 alone
        expected = re.escape(f"{bound} (rank {slow_rank}, which the others wait for) · ").replace(r"\ %\ ", r" \d+ %: ")
        assert re.match(expected, said), said
