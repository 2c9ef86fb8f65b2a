"""Address of a file as one string, with the ways to open it. Everything that reads media or manifests comes through here.

    videos/clip.mp4                                a file
    s3://bucket/videos/clip.mp4                    an object of a store, whose protocol a root or a manifest has named and no
                                                   row can: roots write every path without two slashes in a row
    shards/000.tar::clip.mp4@1536+20480            a member of a tar shard: its first byte and their number; the shard
                                                   itself may be an object
    shards/*.tar::clip.mp4@?                       a name that no shard has
    rows.parquet::row 17//images/0                 the first picture in the cell `images` of row 17 of a table
    rows.jsonl::row 17//image@1536+20480           a picture in a row of JSON, and the bytes of that row in its file
    TITLE, RATE, one of the above, ... joined by   a video that is a list of pictures, RATE of them a second; no row can
    the character NUL                              name such a thing, since no path has that character

An address says all that reading takes, so that any process can open it without a table of the shards.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import quote, unquote

from lightning_apollo.data.storage.byte_range import ByteRange
from lightning_apollo.data.storage.protocols import protocol_of
from lightning_apollo.errors import FORBIDDEN, MISSING, StorageError
from lightning_apollo.files import lock, write_atomically
from lightning_apollo.structures import MediaError

Readable = str | io.BufferedReader  # a path, or an open file where there is none

_MEMBER = re.compile(r"(?P<shard>.+?\.tar)::(?P<name>.+)@(?:\?|(?P<begin>\d+)\+(?P<num_bytes>\d+))", re.DOTALL)
# Two slashes in a row: roots write every path without them, so that no path in an annotation makes such an address
_EMBEDDED = re.compile(
    r"(?P<file>.+)::row (?P<row>\d+)//(?P<steps>[^@]+)(?:@(?P<begin>\d+)\+(?P<num_bytes>\d+))?", re.DOTALL
)


class EmbeddedAddress(str):
    """Address of media that lie inside a row."""


def is_object(address: str) -> bool:
    """True if a store keeps it, not the file system of this machine."""
    return protocol_of(address) is not None


def is_file(address: str) -> bool:
    """True if the address is a path, there or not, rather than an object, a member or media inside a row."""
    return not is_object(address) and _MEMBER.fullmatch(address) is None and _EMBEDDED.fullmatch(address) is None


def member_address(shard: str, name: str, begin: int, num_bytes: int) -> str:
    """The address of a member whose bytes begin at byte `begin` of the shard."""
    return f"{shard}::{name}@{begin}+{num_bytes}"


def missing_member(shards: str, name: str) -> str:
    """An address that says, when it is opened, that none of the shards has such a member."""
    return f"{shards}::{name}@?"


def embedded_address(
    address: str, row: int, steps: Sequence[str], span: tuple[int, int] | None = None
) -> EmbeddedAddress:
    """The address of media at `steps` (keys, and numbers in lists) of a row, whose numbers begin at 1.

    span: first byte and number of bytes of a row of JSON; None for the row of a table.
    """
    place = "/".join(quote(step, safe=" ") for step in steps)
    return EmbeddedAddress(f"{address}::row {row}//{place}{f'@{span[0]}+{span[1]}' if span else ''}")


class FrameList(NamedTuple):
    """A video that is a list of pictures."""

    fps: float  # pictures a second
    addresses: tuple[str, ...]  # in the order in which they are shown


def frames_address(frames: FrameList) -> str:
    """The address of the whole list, which begins with a title for messages."""
    title = f"{frames.addresses[0]} (first of a list of {len(frames.addresses)} frames)"
    return "\0".join((title, repr(frames.fps), *frames.addresses))


def frame_list(address: str) -> FrameList | None:
    """The pictures of a list; None for the address of anything else."""
    _, *fields = address.split("\0")
    return FrameList(float(fields[0]), tuple(fields[1:])) if fields else None


def title_of(address: str) -> str:
    """The address as messages name it: itself, or the title of a list of frames."""
    return address.partition("\0")[0]


def name_of(address: str) -> str:
    """The last part of the path, whatever keeps the file: "clip.mp4" for the first four of the examples above."""
    embedded = _EMBEDDED.fullmatch(address)
    if embedded:
        return f"{name_of(embedded['file'])}, row {embedded['row']}, {embedded['steps']}"
    member = _MEMBER.fullmatch(address)
    return posixpath.basename(member["name"] if member else address)


def open_address(address: str) -> io.BufferedReader:
    """The file, open for reading at any place. MediaError where it cannot be."""
    embedded = _EMBEDDED.fullmatch(address)
    if embedded:
        return _open_embedded(address, embedded)
    member = _MEMBER.fullmatch(address)
    if member:
        return _open_member(address, member)
    if is_object(address):
        return object_store().open_object(address)
    try:
        return Path(address).open("rb")
    except FileNotFoundError:
        raise MediaError(address, "no such file", MISSING) from None
    except IsADirectoryError:
        raise MediaError(address, "a folder, not a file", MISSING) from None
    except PermissionError as error:
        raise MediaError(address, f"cannot be read: {error.strerror}", FORBIDDEN) from error
    except OSError as error:
        raise MediaError(address, f"cannot be read: {error.strerror}") from error


def open_media(address: str) -> Readable:
    """Input of decoders: the path of a file, anything else open at its start. MediaError where there is nothing
    to read."""
    file = open_address(address)
    is_path = is_file(address)
    try:
        if not file.read(1):
            raise MediaError(address, "empty file")
        file.seek(0)
    except OSError as error:
        raise MediaError(address, f"cannot be read: {error.strerror}") from error
    finally:
        if is_path:
            file.close()
    return address if is_path else file


def open_unnamed(path: str) -> io.BufferedReader:
    """A file for decoders that are not to see its name; it is closed when they let it go."""
    return _slice(path, open_address(path), 0, os.path.getsize(path))


def file_state(address: str) -> tuple[int, int]:
    """Size in bytes, and a number that changes with the content: the time of change in nanoseconds, for an object made
    from its ETag or time of change, or 0 where the store tells neither, for a list of frames from the states of all. -1 for
    both where something cannot be read. Media inside a row change with the whole file."""
    frames = frame_list(address)
    if frames is not None:
        states = [file_state(frame) for frame in frames.addresses]
        changed = int.from_bytes(hashlib.sha256(repr(states).encode()).digest()[:7])  # as many bits as an index keeps
        return (-1, -1) if (-1, -1) in states else (sum(size for size, _ in states), changed)
    embedded = _EMBEDDED.fullmatch(address)
    if embedded:
        return file_state(embedded["file"])
    member = _MEMBER.fullmatch(address)
    if member:
        num_bytes, changed = file_state(member["shard"]) if member["begin"] else (-1, -1)
        return (-1, -1) if num_bytes < 0 else (int(member["num_bytes"]), changed)
    if is_object(address):
        return object_store().object_state(address)
    try:
        status = os.stat(address)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def local_copy(address: str) -> str:
    """An address of the same bytes on this machine: copied into the cache folder where they lie elsewhere."""
    member = _MEMBER.fullmatch(address)
    if not is_object(member["shard"] if member else address):
        return address
    with open_address(address) as source:
        state = file_state(address)
        key = hashlib.sha256(repr((address, state)).encode()).hexdigest()
        copy = cache_folder() / f"{key}-{name_of(address)}"
        if not copy.is_file() or state[1] == 0:  # nothing but its size would say that it has changed
            with write_atomically(copy) as partial, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
    return str(copy)


def derived_file(address: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """A file made from the content of another: written once into the cache folder, and again when the content changes.

    `write` is given the path to fill. StorageError where the folder is full or cannot be written to.
    """
    key = hashlib.sha256(repr((os.path.abspath(address), suffix, file_state(address))).encode()).hexdigest()
    made = cache_folder() / f"{key}-{name_of(address)[-64:]}.{suffix}"
    with lock(cache_folder() / "derived.lock"):  # ranks that ask for it at once wait for the first of them
        if not made.is_file():
            try:
                with write_atomically(made) as partial:
                    write(partial)
            except OSError as error:
                reason = f"its copy cannot be written to {cache_folder()} ({error.strerror or error})"
                raise StorageError(f"{address}: {reason}: make room, or name a folder in XDG_CACHE_HOME") from error
    return made


def object_store() -> ModuleType:
    """The module remote.py, which is imported with the first object: fsspec takes its time."""
    from lightning_apollo.data.storage import remote

    return remote


def cache_folder() -> Path:
    """The folder of tables of shards, copies of remote manifests and digests: `lightning_apollo` in XDG_CACHE_HOME or ~/.cache.

    Where that cannot be made, as in the read-only home of a container, one of this user's among the temporary files.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_apollo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = Path(tempfile.gettempdir()) / f"lightning_apollo-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # somebody else's, who could put anything there
            raise error
    return folder


def _open_embedded(address: str, embedded: re.Match[str]) -> io.BufferedReader:
    from lightning_apollo.data.storage import embedded as pictures  # both stand on this file
    from lightning_apollo.data.storage import tables

    steps = [unquote(step) for step in embedded["steps"].split("/")]
    if embedded["begin"] is None:
        content = tables.open_cell(address, embedded["file"], int(embedded["row"]) - 1, steps)
    else:
        with open_address(embedded["file"]) as file:
            file.seek(int(embedded["begin"]))
            content = pictures.open_picture(address, file.read(int(embedded["num_bytes"])), steps)
    return io.BufferedReader(io.BytesIO(content))  # pyright: ignore[reportArgumentType] (raw enough: it has readinto)


def _open_member(address: str, member: re.Match[str]) -> io.BufferedReader:
    if member["begin"] is None:
        raise MediaError(address, f"{member['shard']} has no member of this name", MISSING)
    begin, num_bytes = int(member["begin"]), int(member["num_bytes"])
    try:
        shard = open_address(member["shard"])
    except MediaError as error:
        raise MediaError(address, f"its shard cannot be opened: {error.reason}", error.kind) from error
    return _slice(address, shard, begin, num_bytes)


def _slice(address: str, file: io.BufferedReader, begin: int, num_bytes: int) -> io.BufferedReader:
    """Some of the bytes of another file as a file, which is closed with it."""
    return io.BufferedReader(ByteRange(num_bytes, partial(_read_slice, address, file, begin), file.close))


def _read_slice(address: str, file: io.BufferedReader, begin: int, position: int, size: int) -> bytes:
    try:
        file.seek(begin + position)
        content = file.read(size)
    except MediaError as error:
        raise MediaError(address, f"its shard cannot be read: {error.reason}", error.kind) from error
    except OSError as error:
        raise MediaError(address, f"cannot be read: {error.strerror}") from error
    if not content:
        raise MediaError(address, "its shard ends before it: the shard was cut short or has changed")
    return content
