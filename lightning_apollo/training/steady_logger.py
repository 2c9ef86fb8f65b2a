"""Loggers that cannot end a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_apollo.files import Misses

_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0
_MAX_SHARE = 0.1  # of the time may go into calls that fail, as over a network that is away

Result = TypeVar("Result")


class SteadyLogger(Logger):
    """Another logger, whose errors cost what is logged then and are counted; the first is a warning.

    After an error it is made anew, since TensorBoard's writer never recovers from one: one second later, or where it
    fails again, after longer and longer pauses of up to a minute.
    """

    def __init__(self, title: str, build: Callable[[bool], Logger]) -> None:
        """build: makes the logger; is told whether it is the first."""
        super().__init__()
        self.misses = Misses(title)
        self._build = build
        self._logger: Logger | None = None
        self._has_begun = False
        self._pause_seconds = 0.0
        self._failed, self._due = float("-inf"), float("-inf")  # seconds on the clock of time.monotonic

    @property
    def name(self) -> str:
        return self.misses.what

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> Any:
        return self._try(lambda logger: getattr(logger, "experiment", None)) or _DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._try(lambda logger: logger.log_metrics(dict(metrics), step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._try(lambda logger: logger.log_hyperparams(*args, **kwargs))

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        self._try(lambda logger: logger.log_graph(*args, **kwargs))

    def save(self) -> None:
        self._try(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        self._try(lambda logger: logger.finalize(status))
        self.misses.say("what was logged meanwhile is missing in it")

    def _try(self, call: Callable[[Logger], Result]) -> Result | None:
        """Result of the call; None where it fails, or between tries."""
        begun = time.monotonic()
        if begun < self._due:
            return None
        try:
            if self._logger is None:
                self._logger = self._build(not self._has_begun)
            result = call(self._logger)
        except Exception as error:  # whatever the logger's library or network comes up with
            self._logger = None
            self.misses.add(error)
            self._rest(time.monotonic(), time.monotonic() - begun)
            return None
        self._has_begun = True
        return result

    def _rest(self, now: float, took: float) -> None:
        if now - self._failed > 2 * _MAX_PAUSE_SECONDS:
            self._pause_seconds = 0.0
        longer = min(2 * self._pause_seconds, _MAX_PAUSE_SECONDS)
        self._pause_seconds = max(_MIN_PAUSE_SECONDS, longer)
        self._failed, self._due = now, now + max(self._pause_seconds, took / _MAX_SHARE)


def tensorboard(folder: Path, num_steps_kept: int) -> SteadyLogger:
    """TensorBoard's events below a stage's folder; those of an earlier run behind step `num_steps_kept` are hidden."""
    _keep_writer_quiet()

    def build(is_first: bool) -> Logger:
        return TensorBoardLogger(folder, name="tensorboard", version="", purge_step=num_steps_kept * is_first or None)

    return SteadyLogger("TensorBoard", build)


@cache
def _keep_writer_quiet() -> None:
    """Leave out the traceback of TensorBoard's writing thread, whose error the next row raises again."""
    hook = threading.excepthook

    def of_others(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            hook(failure)

    threading.excepthook = of_others
