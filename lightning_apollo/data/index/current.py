"""Check of an index against manifests and media as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning_apollo.data.index.media_columns import file_states
from lightning_apollo.data.index.tables import Index, IndexFileError

_AT_A_TIME = 16_384


def index_of(folder: Path, digests: Mapping[str, str], text_identity: str) -> Index | None:
    """The index in the folder, if making it again would change nothing."""
    try:
        index = Index(folder)
    except IndexFileError:  # none, cut short, or of another version
        return None
    is_whole = list(index.manifest_digests.items()) == list(digests.items())
    return index if is_whole and index.text_identity == text_identity and has_same_media(index) else None


def has_same_media(index: Index) -> bool:
    """True if size and time of change of every file are those of its probe."""
    sizes, times = index.media_column("file_bytes"), index.media_column("mtime_ns")
    for first in range(0, len(sizes), _AT_A_TIME):
        rows = slice(first, first + _AT_A_TIME)
        addresses = index.media.column("path")[rows].to_pylist()
        before = zip(sizes[rows].tolist(), times[rows].tolist(), strict=True)
        if any(now != then for now, then in zip(file_states(addresses), before, strict=True)):
            return False
    return True
