"""Results of probes and the keys of files."""

from __future__ import annotations

from typing import NamedTuple

from lightning_apollo.structures import MediaInfo, Modality


class MediaKey(NamedTuple):
    """A file and what an annotation calls it, on which it depends how the file is read."""

    path: str
    modality: Modality


class ProbeResult(NamedTuple):
    """Result of a probe, with the size and time of change of its file. Without `info`, `error` says why."""

    info: MediaInfo | None
    file_bytes: int  # -1 where there is no file
    mtime_ns: int
    error: str | None = None  # one line, without the path
