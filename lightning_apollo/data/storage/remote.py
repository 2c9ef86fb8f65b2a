"""Objects of stores through fsspec. storage/address.py imports this file with the first object.

Endpoint, region and credentials are what the library of each protocol reads from the environment, and fsspec from
FSSPEC_PROTOCOL. Nothing that holds them is pickled.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import fsspec
from fsspec import asyn

from lightning_apollo.data.storage.blocks import Blocks, StoreFile
from lightning_apollo.data.storage.byte_range import ByteRange
from lightning_apollo.data.storage.faults import persist
from lightning_apollo.data.storage.own_stores import OwnStore, carry
from lightning_apollo.data.storage.protocols import ALLOWED, LIBRARIES, is_wrapper, protocol_of
from lightning_apollo.errors import StorageError
from lightning_apollo.machine.packages import extra_command
from lightning_apollo.structures import MediaError

# Facts of an object that change with its content, as the stores call them: the first that one has counts
_MARKS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "checksum", "blob_id", "generation", "oid"),
    *("mtime", "LastModified", "last_modified", "updated", "created"),
)
_WEB = ("http", "https")

os.register_at_fork(after_in_child=asyn.reset_lock)  # a lock that another thread held would stay closed there


def require_store(address: str) -> OwnStore | None:
    """StorageError where the library of the protocol is missing; the user's own store where it is one."""
    protocol = _protocol(address)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        library = LIBRARIES.get(protocol)
        if library is None:
            raise StorageError(f"data on {protocol}://: its store cannot be imported ({error})") from error
        install = extra_command(library.extra) if library.extra else f"pip install {library.name}"
        raise StorageError(f"data on {protocol}:// needs {library.name}: {install}") from error
    except ValueError as error:
        raise StorageError(f"data on {protocol}://: register a store of this name with fsspec") from error
    return None if protocol in ALLOWED else carry(protocol, f"{kind.__module__}.{kind.__qualname__}")


def open_object(address: str) -> io.BufferedReader:
    """The object, open for reading at any place; blocks are fetched as they are needed. Every error is a MediaError."""
    blocks = Blocks(address, partial(_open, _filesystem(address), address))
    return io.BufferedReader(ByteRange(blocks.size, blocks.read, blocks.close))


def object_state(address: str) -> tuple[int, int]:
    """Size in bytes and a number made from its ETag or time of change, 0 where the store has neither; -1 for both where it
    cannot be reached."""
    filesystem = _filesystem(address)
    try:
        size, mark = persist(address, partial(_facts, filesystem, address))
    except MediaError:
        return -1, -1
    if mark is None:
        return size, 0
    return size, int.from_bytes(hashlib.sha256(mark.encode()).digest()[:8]) >> 1  # 63 bits, as a time of change has


def list_objects(pattern: str) -> list[str]:
    """The addresses that match a pattern with `*`, `?` and `[...]`, sorted. MediaError where the store refuses."""
    if _protocol(pattern) in _WEB:
        raise StorageError(
            f"{pattern}: a web server does not list its files: write their names, or {{000..012}} in them"
        )
    filesystem = _filesystem(pattern)
    path = filesystem._strip_protocol(pattern)
    head = pattern.removesuffix(path) if pattern.endswith(path) else None
    names = persist(pattern, partial(filesystem.glob, path))
    return sorted(filesystem.unstrip_protocol(name) if head is None else f"{head}{name}" for name in names)


def _protocol(address: str) -> str:
    protocol = protocol_of(address)
    assert protocol is not None
    if is_wrapper(protocol):
        raise StorageError(f"{protocol}:// opens other addresses: name the store that keeps the files")
    return protocol


def _filesystem(address: str) -> Any:
    """This thread's own connections: fsspec keeps them for each process and thread, and makes new ones after a fork."""
    protocol = _protocol(address)
    require_store(address)
    kind = fsspec.get_filesystem_class(protocol)
    options: dict[str, Any] = kind._get_kwargs_from_urls(address)
    if protocol in _WEB:
        options["client_kwargs"] = {"trust_env": True}  # the proxies and the netrc file of the environment
    elif protocol in LIBRARIES and protocol != "hf":  # which looks into it before each block
        options["use_listings_cache"] = False
    filesystem = kind(**options)
    if protocol == "s3":
        filesystem.retries = 1  # `persist` tries again
    return filesystem


def _open(filesystem: Any, address: str) -> StoreFile:
    if protocol_of(address) in _WEB:
        from lightning_apollo.data.storage import web

        return web.open_file(filesystem, address)
    return _Object(filesystem, address)


def _facts(filesystem: Any, address: str) -> tuple[int, str | None]:
    """Size in bytes, and what changes with the content."""
    if protocol_of(address) in _WEB:
        from lightning_apollo.data.storage import web

        facts = web.look(filesystem, address)
        return facts.size or 0, facts.mark
    options = (
        {"refresh": True, "expand_info": True} if protocol_of(address) == "hf" else {}
    )  # else no hash, or an old one
    return _read_facts(filesystem.info(address, **options))


def _read_facts(facts: Mapping[str, Any]) -> tuple[int, str | None]:
    if facts.get("type") == "directory":
        raise FileNotFoundError("a folder, not a file")
    mark = next((str(facts[name]) for name in _MARKS if facts.get(name) is not None), None)
    return int(facts["size"]), mark


class _Object:
    """An object that fsspec has opened, whose own cache is off."""

    def __init__(self, filesystem: Any, address: str) -> None:
        self._file = filesystem.open(address, "rb", cache_type="none")
        facts = getattr(self._file, "details", None)
        self.size, self.mark = _read_facts(facts if isinstance(facts, dict) else filesystem.info(address))

    def fetch(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        parts, left = [], end - begin
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
