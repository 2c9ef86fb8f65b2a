"""One-line report of user errors on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from lightning_apollo.errors import UserError
from lightning_apollo.machine.faults import fault_of_machine

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Print what the user, or whoever keeps the machine, can put right as one red line and leave with code 2.

    Other errors keep their traceback.
    """
    try:
        yield
    except typer.Exit:  # which is a RuntimeError
        raise
    except Exception as error:
        line = str(error) if isinstance(error, UserError) else fault_of_machine(error)
        if debug or line is None:
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(line, style="red", markup=False)
        raise typer.Exit(2) from error
