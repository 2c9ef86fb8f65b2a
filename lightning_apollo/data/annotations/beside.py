"""Media of a sample in tar shards that share its key: `000017.jpg` beside `000017.json`."""

from __future__ import annotations

import posixpath

from lightning_apollo.data.storage.shards import ShardTable

_MODALITIES = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp"), "image"),
    **dict.fromkeys(("mp4", "webm", "mkv", "mov", "avi", "m4v"), "video"),
}
_MEDIA_KEYS = ("image", "images", "video", "videos")


def media_beside(row: object, table: ShardTable, member: int) -> object:
    """The row with the images and videos of its key, in the order of the shard; a row that lists media is left as it is.

    member: the number of the row's own member. A key is a name up to the first dot, as WebDataset has it.
    """
    if not isinstance(row, dict) or any(row.get(key) is not None for key in _MEDIA_KEYS) or _has_parts(row):
        return row
    found: dict[str, list[str]] = {}
    for name in _members_of_key(table, member):
        modality = _MODALITIES.get(name.rpartition(".")[2].lower())
        if modality is not None:
            found.setdefault(modality, []).append(name)
    return {**row, **{modality: names if len(names) > 1 else names[0] for modality, names in found.items()}}


def _members_of_key(table: ShardTable, member: int) -> list[str]:
    """The names of all members with the key of one of them: they follow each other in its shard."""
    key, first, last = _key(table.name(member)), member, member
    while first > 0 and _key(table.name(first - 1)) == key:
        first -= 1
    while last + 1 < len(table) and _key(table.name(last + 1)) == key:
        last += 1
    return [table.name(number) for number in range(first, last + 1)]


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _has_parts(row: dict[str, object]) -> bool:
    """True if a turn is a list of parts, which may name media themselves."""
    turns = [turn for key in ("messages", "conversations") if isinstance(found := row.get(key), list) for turn in found]
    return any(isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns)
