"""Roots of a source's media paths: a folder, a place in a store or tar shards."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from lightning_apollo.data.conversation import MediaPart, RowError
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage import protocols
from lightning_apollo.data.storage.address import EmbeddedAddress, StorageError
from lightning_apollo.data.storage.own_stores import OwnStore
from lightning_apollo.data.storage.shards import ShardTable, open_shards

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class MediaRoot(Protocol):
    """Turn the media paths of annotations into addresses. It can be pickled: every loader process holds one.

    Media inside a row have an address already; no root changes or refuses it.
    """

    def address(self, path: str) -> str:
        """Address of the file, in the form of storage/address.py; opening it says if it is there."""
        ...

    def check(self, path: str) -> None:
        """Return nothing; RowError where the path leaves the root."""
        ...


def open_root(root: str, outside_root: Sequence[str] = (), also: Sequence[str] = ()) -> MediaRoot:
    """The root that a recipe calls so. Only a folder lets paths out, into the folders of `outside_root`.

    `DIR`, `s3://BUCKET/PREFIX` or the like in another store, or tar shards, there or here: `shards/{000..012}.tar`, as
    `open_shards` reads it. also: protocols that are allowed besides the usual. StorageError for what is none of these.
    """
    root = protocols.local_or_url(root, also)
    store = storage.object_store().require_store(root) if storage.is_object(root) else None
    if root.endswith(".tar") and not Path(root).is_dir():
        return ShardRoot(root, open_shards(root), store)
    if root.endswith(_COMPRESSED):
        raise StorageError(
            f"{root}: nothing can be found in a compressed shard without reading all of it: write a .tar"
        )
    if storage.is_object(root):
        return ObjectRoot(root, store)
    return FolderRoot(root, tuple(outside_root))


def as_root(root: Path | MediaRoot) -> MediaRoot:
    """The root itself, or that of a folder."""
    return FolderRoot(str(root)) if isinstance(root, Path) else root


def part_address(root: MediaRoot, part: MediaPart) -> str:
    """Address of the file of a part, or of all pictures of a list of frames."""
    if not part.frame_paths:
        return root.address(part.path)
    assert part.frames_fps is not None  # rows are refused without
    addresses = tuple(root.address(path) for path in part.frame_paths)
    return storage.frames_address(storage.FrameList(part.frames_fps, addresses))


@dataclass(frozen=True)
class FolderRoot:
    """A folder, and those elsewhere that paths may lead into."""

    root: str
    outside_root: tuple[str, ...] = ()

    def address(self, path: str) -> str:
        return path if isinstance(path, EmbeddedAddress) else str(Path(self.root) / path)

    def check(self, path: str) -> None:
        if isinstance(path, EmbeddedAddress):
            return
        # realpath follows symbolic links, so a link inside the root cannot lead out of it either
        resolved = os.path.realpath(os.path.join(self._folders[0], path))
        if not any(os.path.commonpath([resolved, folder]) == folder for folder in self._folders):
            raise RowError(
                f"media path {path!r} leaves the data root {self._folders[0]}: "
                "move the file there, or name its folder in data.outside_root"
            )

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        return tuple(os.path.realpath(folder) for folder in (self.root, *self.outside_root))


@dataclass(frozen=True)
class ObjectRoot:
    """A bucket of a store or a server, or what in it begins with a prefix."""

    root: str
    store: OwnStore | None = None  # where it is a user's own; a process that the root is handed to knows it then

    def address(self, path: str) -> str:
        if isinstance(path, EmbeddedAddress):
            return path
        return protocols.join(self.root, posixpath.normpath(path))

    def check(self, path: str) -> None:
        _check_below(path, self.root)


@dataclass(frozen=True)
class ShardRoot:
    """The members of tar shards, each by its name."""

    root: str
    table: ShardTable
    store: OwnStore | None = None

    def address(self, path: str) -> str:
        if isinstance(path, EmbeddedAddress):
            return path
        member = self.table.find(posixpath.normpath(path))
        return storage.missing_member(self.root, path) if member is None else self.table.address(member)

    def check(self, path: str) -> None:
        _check_below(path, self.root)


def _check_below(path: str, root: str) -> None:
    """RowError where the path leads out of a root without folders and links, whose paths are letters alone."""
    if isinstance(path, EmbeddedAddress):
        return
    if posixpath.isabs(path) or posixpath.normpath(path).split("/")[0] == "..":
        raise RowError(f"media path {path!r} leaves the data root {root}: name a file below it")
