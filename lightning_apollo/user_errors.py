"""Errors that a user can put right, as one line on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Prints what the user can put right as one red line and leaves with code 2; other errors keep their traceback."""
    try:
        yield
    except Exception as error:
        if debug or not isinstance(error, _user_errors()):
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _user_errors() -> tuple[type[Exception], ...]:
    from lightning_apollo.data.costs import PlanError
    from lightning_apollo.data.datamodule import DataChanged
    from lightning_apollo.data.index import IndexFileError
    from lightning_apollo.data.manifest import ManifestError
    from lightning_apollo.data.order import TooFewSamples
    from lightning_apollo.data.quarantine import TooManyBadSamples
    from lightning_apollo.data.rows import RowError
    from lightning_apollo.data.storage import StorageError
    from lightning_apollo.evaluation.results import ResultsError
    from lightning_apollo.layers import RecipeError
    from lightning_apollo.structures import MediaError, WeightsError
    from lightning_apollo.training.callbacks.checkpoint import CheckpointError
    from lightning_apollo.training.callbacks.non_finite import NonFiniteLoss

    return (
        *(RecipeError, ManifestError, RowError, MediaError, WeightsError, ResultsError, IndexFileError),
        *(TooFewSamples, TooManyBadSamples, PlanError, DataChanged, CheckpointError, NonFiniteLoss, StorageError),
    )
