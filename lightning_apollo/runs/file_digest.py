"""SHA-256 of large files, cached by size and time of change and inode."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lightning_apollo.data.storage.address import cache_folder
from lightning_apollo.files import lock, write_atomically

logger = logging.getLogger(__name__)

_NOTED_FROM_BYTES = 2**20  # smaller ones are read sooner than looked up
_MOST_NOTED = 4096  # files; those noted first go first


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes; a file that is as it was when it was last read is not read again."""
    state = _state(path)
    if state[0] < _NOTED_FROM_BYTES:
        return _read(path)
    name = os.path.realpath(path)
    with one_at_a_time(name):
        noted = _noted().get(name)
        if noted is not None and noted[:3] == state:
            return str(noted[3])
        digest = _read(path)
        if _state(path) == state:  # nobody wrote to it meanwhile
            try:
                _note(name, [*state, digest])
            except OSError as error:
                logger.warning("%s: its digest is not noted (%s): it is read again next time", path, error.strerror)
        return digest


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let the first of the ranks on a machine read what the others then find in the cache folder.

    Where that folder cannot be locked, all of them read.
    """
    path = cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(lock(path))
        yield


def digest_files(paths: Iterable[Path]) -> str:
    """A hash of the names and bytes of files, in this order, wherever they lie."""
    files = [[path.name, digest_file(path)] for path in paths]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _noted() -> dict[str, list[int | str]]:
    path = cache_folder() / "digests.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _note(name: str, entry: list[int | str]) -> None:
    folder = cache_folder()
    with lock(folder / "digests.lock"):
        noted = {**{other: value for other, value in _noted().items() if other != name}, name: entry}
        newest = dict(list(noted.items())[-_MOST_NOTED:])
        with write_atomically(folder / "digests.json") as partial:
            partial.write_text(json.dumps(newest))
