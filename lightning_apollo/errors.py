"""UserError: one line on the terminal and exit code 2."""

import difflib
from collections.abc import Iterable

_MAX_SHOWN = 9  # known names in an error message


# Of a place that keeps files: the file is not there; may not be read; does not come in time; comes incomplete or changed
# while it was read; the place does not answer
FAULTS = (MISSING, FORBIDDEN, SLOW, BROKEN, UNAVAILABLE) = ("missing", "forbidden", "slow", "broken", "unavailable")


class UserError(Exception):
    """Base of every error whose message names what is wrong and the fix, in one line."""


class RecipeError(UserError):
    """A recipe that cannot be used."""


class MediaError(UserError):
    """Media that cannot be read: `path` as the annotation names it, `reason` in one line.

    kind: one of FAULTS where the place that keeps the file is at fault; empty where its content is.
    """

    def __init__(self, path: str, reason: str, kind: str = "") -> None:
        path = path.partition("\0")[0]  # of the address of a list of frames, its title
        super().__init__(path, reason)  # both in args, so that the error survives pickling out of a loader worker
        self.path = path
        self.reason = reason
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class StorageError(UserError, ValueError):
    """Error of a store that cannot be used; one line that says what to do. kind: as that of a MediaError."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the known name that was probably meant, or what is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    rest = f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else ""
    return f", known: {', '.join(known[:_MAX_SHOWN])}{rest}" if known else ""
