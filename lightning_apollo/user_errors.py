"""Errors that a user can put right, as one line on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo.errors import UserError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Prints what the user can put right as one red line and leaves with code 2; other errors keep their traceback."""
    try:
        yield
    except UserError as error:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error
