"""Measure the best number of loader processes and decoder threads on this machine."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning.pytorch import Trainer

from lightning_apollo.data.datamodule import VideoDataModule
from lightning_apollo.data.loader import MicroBatchLoader
from lightning_apollo.progress import Progress
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.explain import count_ranks

CLOSE_ENOUGH = 0.95  # of the best throughput
_ENDLESS = 10**9  # optimizer steps


class Setting(NamedTuple):
    num_workers: int
    decoder_threads: int

    @property
    def num_cores(self) -> int:
        """Cores that it keeps busy, the training process left out."""
        return self.num_workers * self.decoder_threads

    def __str__(self) -> str:
        return f"data.num_workers={self.num_workers} data.decoder_threads={self.decoder_threads}"


@dataclass(frozen=True)
class Throughput:
    """Throughput of a loader for one training process that does nothing else."""

    setting: Setting
    batches_per_second: float  # micro-batches
    samples_per_second: float
    tokens_per_second: float  # text and visual tokens before reduction


def cores_of_a_rank(recipe: Recipe) -> int:
    """Cores of this machine for each training process on it."""
    ranks = count_ranks(recipe.trainer) // recipe.trainer.num_nodes
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def settings(num_cores: int) -> list[Setting]:
    """Trials: no loader process, or some in powers of two, with 1, 2 or 4 threads each; never more than the cores."""
    workers = sorted({0, num_cores} | {2**n for n in range(num_cores.bit_length()) if 2**n <= num_cores})
    return [
        Setting(number, threads)
        for number in workers
        for threads in (1, 2, 4)
        if threads == 1 or max(1, number) * threads <= num_cores
    ]


def measure_settings(
    recipe: Recipe, stage: str, tried: Sequence[Setting], seconds: float, progress: Progress
) -> list[Throughput]:
    """The throughput of every setting, each read for `seconds` once its processes run.

    progress: told how many settings are measured, of how many.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # what every Trainer says
    with tempfile.TemporaryDirectory() as folder:  # of what a run would leave: bad samples, an index for packing
        longer = replace(recipe.stages[stage], max_steps=_ENDLESS)
        own = replace(recipe, output=folder, stages={**recipe.stages, stage: longer})
        build_data(own, stage).prepare_data()
        measured: list[Throughput] = []
        for setting in tried:
            progress(len(measured), len(tried))
            with _loader(own, stage, setting) as loader:
                measured.append(_read(loader, setting, seconds))
    return measured


def recommend(measured: Sequence[Throughput], needed: float | None = None) -> Throughput:
    """The cheapest setting that gives `needed` micro-batches a second; where none does, or nothing is said to be needed,
    the cheapest of those within 5 % of the best.

    Loading in the training process is left out where there is anything else: all its time is added to the step's.
    """
    beside = [one for one in measured if one.setting.num_workers] or list(measured)
    best = max(one.batches_per_second for one in beside)
    least = CLOSE_ENOUGH * best if needed is None or needed > best else needed
    enough = [one for one in beside if one.batches_per_second >= least]
    return min(enough, key=lambda one: (one.setting.num_cores, one.setting.num_workers))


def needed_batches(recipe: Recipe, stage: str, step_seconds: float) -> float:
    """Micro-batches a second that one training process uses up if its optimizer steps take `step_seconds`."""
    try:
        return recipe.stages[stage].accumulate(count_ranks(recipe.trainer)) / step_seconds
    except ValueError as error:
        raise RecipeError(f"stages.{stage}: {error}") from error


@contextmanager
def _loader(recipe: Recipe, stage: str, setting: Setting) -> Iterator[MicroBatchLoader]:
    """The loader that training would have, for a single process."""
    chosen = {"num_workers": setting.num_workers, "decoder_threads": setting.decoder_threads}
    data = replace(recipe.data, frame_cache=None, **chosen)  # what one setting decodes, the next must decode too
    module: VideoDataModule = build_data(replace(recipe, data=data), stage)
    module.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    module.setup("fit")
    yield module.train_dataloader()
    module.teardown("fit")


def _read(loader: MicroBatchLoader, setting: Setting, seconds: float) -> Throughput:
    """Count what comes after the first batch of every process: the first ones wait for the processes to start."""
    batches = iter(loader)
    for _ in range(1 + setting.num_workers):
        next(batches)
    num_batches = num_samples = num_tokens = 0
    begin = time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds or not num_batches:
        batch = next(batches)
        num_batches += 1
        num_samples += len(batch)
        num_tokens += batch.input_ids.numel()
    return Throughput(setting, num_batches / passed, num_samples / passed, num_tokens / passed)
