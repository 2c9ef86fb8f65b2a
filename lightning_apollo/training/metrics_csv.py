"""CSV of a stage's metrics, which a resumed stage extends."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_apollo.files import SideFile, write_atomically

FILE_NAME = "metrics.csv"
_MAX_ROWS = 10_000  # that wait for a file which cannot be written

MetricsRow = Mapping[str, Any]


class StepLog(Logger):
    """Write a row a step, at once. A row that cannot be written, as where the disk is full, is kept for later.

    Rows behind step `num_steps_kept` of an earlier file are of steps that are trained again, and go.
    """

    def __init__(self, folder: Path, num_steps_kept: int = 0) -> None:
        super().__init__()
        self._folder = folder
        self._num_steps_kept = num_steps_kept
        self._file = SideFile(folder / FILE_NAME)
        self._header: list[str] = []  # of the file, once it is this run's
        self._rows: list[MetricsRow] = []  # not given to the file yet

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        if len(self._rows) < _MAX_ROWS:
            self._rows.append({**values, "step": step})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: recipe.yaml has them."""

    @rank_zero_only
    def save(self) -> None:
        """Give the rows to the file; Lightning calls it after each of them."""
        if not self._rows:
            return
        columns = {key for row in self._rows for key in row}
        if columns <= {*self._header}:
            self._file.append(_lines(self._header, self._rows))
        elif not self._is_rewritten():
            return
        self._rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        if self._file.is_behind:
            self._file.append("")
        is_whole = not self._rows and not self._file.is_behind
        self._file.misses.say("all rows are there now" if is_whole else "the last rows are missing")

    def _is_rewritten(self) -> bool:
        """Write the file anew, with the rows before and a header that has all columns; False where it cannot be."""
        if self._file.is_behind:
            self._file.append("")
        if self._file.is_behind:
            return False
        try:
            rows = [*self._rows_before(), *self._rows]
            header = sorted({key for row in rows for key in row})
            self._folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(self._file.path) as partial, partial.open("w", newline="") as file:
                file.write(",".join(header) + "\r\n" + _lines(header, rows))
        except OSError as error:
            self._file.misses.add(error)
            return False
        self._header = header
        return True

    def _rows_before(self) -> list[MetricsRow]:
        path = self._file.path
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows: list[MetricsRow] = list(csv.DictReader(file))
        return (
            rows if self._header else [row for row in rows if row["step"] and int(row["step"]) < self._num_steps_kept]
        )


def _lines(header: Sequence[str], rows: Sequence[MetricsRow]) -> str:
    file = io.StringIO()
    csv.DictWriter(file, header).writerows(rows)
    return file.getvalue()
