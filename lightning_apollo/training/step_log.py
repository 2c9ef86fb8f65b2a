"""The CSV of a stage's metrics, which goes on where a resumed stage does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

FILE_NAME = "metrics.csv"


class StepLog(CSVLogger):
    """Lightning's CSV logger, which would remove the file of a stage that is resumed; this one keeps its first steps.

    Rows behind step `num_steps_kept` are of steps that are trained again.
    """

    def __init__(self, folder: Path, num_steps_kept: int = 0) -> None:
        super().__init__(folder, name="", version="")
        self._folder = folder
        self._num_steps_kept = num_steps_kept

    @property
    def experiment(self) -> Any:
        if self._experiment is None and self._num_steps_kept:
            header, rows = self._rows_before()
            writer = super().experiment
            if isinstance(writer, ExperimentWriter) and rows:
                writer.metrics_keys = header
                with (self._folder / FILE_NAME).open("w", newline="") as file:
                    out = csv.DictWriter(file, fieldnames=header)
                    out.writeheader()
                    out.writerows(rows)
        return super().experiment

    def _rows_before(self) -> tuple[list[str], list[dict[str, str]]]:
        path = self._folder / FILE_NAME
        if not path.is_file():
            return [], []
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["step"] and int(row["step"]) < self._num_steps_kept]
            return list(reader.fieldnames or ()), rows
