"""Deadlock watchdog for ranks that wait for each other forever.

Every rank notes what it begins: the phases of a step, and within forward and backward each component and layer. A thread
of its own says so twice a second over a key-value store of its own; rank 0's thread compares. On a GPU the notes are where the
host is, which runs ahead of the device until it reads a value.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]  its documented place
from torch.utils.hooks import RemovableHandle

from lightning_apollo.files import SideFile
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.training.watchdog.report import BETWEEN, Position, RankReport, deadlock_report, entry, is_stalled

EXIT_CODE = 70  # of a run that a sentinel ends
LOG = "sentinel.log"
_POLL_SECONDS = 0.5
_NUM_FRAMES = 12  # of the stack that are shown

logger = logging.getLogger(__name__)


class Sentinel(Callback):
    """Report a stall once no rank has moved for `patience_seconds`, and end the run when it lasts `end_seconds` more.

    The report goes to standard error and to `folder/sentinel.log`. One rank alone is not watched.
    """

    def __init__(self, folder: Path, patience_seconds: float = 7.0, end_seconds: float = 60.0) -> None:
        self.folder = folder
        self.patience_seconds = patience_seconds
        self.end_seconds = end_seconds
        self._notes = _Notes()
        self._hooks: list[RemovableHandle] = []
        self._watch: _Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        strategy = trainer.strategy
        if trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
            return
        model = pl_module.get_submodule("model")
        assert isinstance(model, VideoLMM)
        self._hooks = list(_hook(model, self._notes))
        self._watch = _Watch(self._notes, _open_store(strategy), strategy.global_rank, strategy.world_size, self)
        self._watch.publish()
        strategy.barrier()  # every rank has said something before rank 0 asks
        self._watch.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._notes.begin(Position(trainer.global_step, batch_idx, "forward"), batch.sample_ids)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._notes.begin_phase("backward")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._notes.begin_phase("optimizer")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._notes.begin(Position(trainer.global_step, batch_idx + 1, BETWEEN), ())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


class _Notes:
    """Position of the main thread; the watching thread reads it without a lock, one reference at a time."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.samples: tuple[str, ...] = ()
        self.entered: Counter[str] = Counter()  # of the micro-batch
        self.position = Position(0, 0, BETWEEN)
        self.moved = time.monotonic()

    def begin(self, position: Position, samples: tuple[str, ...]) -> None:
        """Begin a micro-batch, or the time between two."""
        self.thread = threading.get_ident()
        self.samples, self.entered = samples, Counter()
        self._move(position)

    def begin_phase(self, phase: str) -> None:
        self._move(replace(self.position, phase=phase, module="", num_entered=0))

    def enter(self, module: str) -> None:
        at = self.position
        self.entered[entry(at.phase, module)] += 1
        self._move(replace(at, module=module, num_entered=at.num_entered + 1))

    def _move(self, position: Position) -> None:
        self.position, self.moved = position, time.monotonic()


class _Watch(threading.Thread):
    """Say where its rank is; on rank 0, also compare what all ranks say."""

    def __init__(self, notes: _Notes, store: TCPStore, rank: int, world_size: int, settings: Sentinel) -> None:
        super().__init__(name="sentinel", daemon=True)
        self.notes = notes
        self.store = store  # used by this thread alone once it runs
        self.rank = rank
        self.world_size = world_size
        self.settings = settings
        self._log = SideFile(settings.folder / LOG)
        self._stopped = threading.Event()
        self._num_said = 0
        self._heard: dict[int, tuple[bytes, float]] = {}  # rank -> how often it had spoken, and when that changed
        self._reported: float | None = None  # when this stall was

    def run(self) -> None:
        try:
            while not self._stopped.wait(_POLL_SECONDS):
                self.publish()
                if self.rank == 0:
                    self._judge()
                elif self.store.check(["end"]):
                    _end()
        except DistError:
            return  # rank 0, where the store lies, has ended: nobody is left to tell

    def stop(self) -> None:
        self._stopped.set()
        if self.is_alive():
            self.join()

    def publish(self) -> None:
        """Say where this rank is; the stack only where it has not moved for a while."""
        notes, still = self.notes, time.monotonic() - self.notes.moved
        is_still = still >= self.settings.patience_seconds / 2
        report = RankReport(
            rank=self.rank,
            position=notes.position,
            still_seconds=still,
            samples=notes.samples,
            entered=dict(notes.entered) if is_still else {},
            stack=_stack(notes.thread) if is_still else (),
        )
        self._num_said += 1
        self.store.set(f"report {self.rank}", report.to_json())
        self.store.set(f"said {self.rank}", str(self._num_said))

    def _judge(self) -> None:
        reports = self._reports()
        if not is_stalled(reports, self.settings.patience_seconds):
            self._reported = None
        elif self._reported is None:
            self._reported = time.monotonic()
            self._write(deadlock_report(reports))
        elif time.monotonic() - self._reported >= self.settings.end_seconds:
            self._write(f"nothing has moved for {self.settings.end_seconds:.0f} s more: the run ends")
            self.store.set("end", "")
            time.sleep(4 * _POLL_SECONDS)  # the store ends with this process
            _end()

    def _reports(self) -> list[RankReport]:
        ranks, now = range(self.world_size), time.monotonic()
        said = self.store.multi_get([f"said {rank}" for rank in ranks])
        reports = []
        for rank, text in zip(ranks, self.store.multi_get([f"report {rank}" for rank in ranks]), strict=True):
            if self._heard.get(rank, (b"", now))[0] != said[rank]:
                self._heard[rank] = (said[rank], now)
            unheard = now - self._heard[rank][1]
            report = RankReport.from_json(text)
            if unheard >= self.settings.patience_seconds / 2:
                report = replace(report, is_silent=True)
            reports.append(replace(report, still_seconds=report.still_seconds + unheard))
        return reports

    def _write(self, text: str) -> None:
        logger.error(text)
        self._log.append(f"{text}\n")


def _open_store(strategy: ParallelStrategy) -> TCPStore:
    """A connection to a key-value store on rank 0; every rank calls it."""
    assert strategy.cluster_environment is not None
    host, timeout = strategy.cluster_environment.main_address, timedelta(seconds=60)
    if strategy.global_rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        strategy.broadcast(store.port)
        return store
    return TCPStore(host, strategy.broadcast(0), is_master=False, timeout=timeout)


def _hook(model: VideoLMM, notes: _Notes) -> Iterator[RemovableHandle]:
    """Note each component and each layer when its forward begins and when its output's gradient arrives."""
    for component, module in model.components().items():
        for name, part in _parts(component, module):

            def on_forward(module: nn.Module, inputs: Any, name: str = name) -> None:
                notes.enter(name)

            def on_output(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                for tensor in _tensors(output):
                    if tensor.requires_grad:
                        tensor.register_hook(lambda gradient: notes.enter(name))

            # Before the hooks of sharding, so that the note is made before the collective is waited for
            yield part.register_forward_pre_hook(on_forward, prepend=True)
            yield part.register_forward_hook(on_output, prepend=True)


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The module and what is in it, down to its layers."""
    yield name, module
    for child_name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{child_name}.{number}", layer) for number, layer in enumerate(child))
        else:
            yield from _parts(f"{name}.{child_name}", child)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(value)


def _stack(thread: int) -> tuple[str, ...]:
    """The innermost calls of a thread, innermost first."""
    frame = sys._current_frames().get(thread)
    calls = traceback.extract_stack(frame) if frame is not None else []
    return tuple(f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls[-_NUM_FRAMES:]))


def _end() -> None:
    """End the process at once: its main thread waits for a collective that will not come, and hears no signal."""
    sys.stderr.flush()
    os._exit(EXIT_CODE)
