"""Files of web servers through the session of fsspec, whose own reader takes any answer for the range it asked for."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from aiohttp import ClientResponse, ClientTimeout
from fsspec.asyn import sync

from lightning_apollo.data.storage import faults
from lightning_apollo.data.storage.blocks import StoreFile
from lightning_apollo.errors import UNAVAILABLE

WHOLE_BYTES = 256 * 2**20  # of a file that comes whole or not at all

_RANGE = re.compile(r"bytes (?:(?P<begin>\d+)-\d+|\*)/(?P<size>\d+)")
_CHUNK_BYTES = 2**18


class WebFacts(NamedTuple):
    """Facts of a file as its server states them."""

    size: int | None  # bytes; None where it does not say
    mark: str | None  # its ETag, or else its time of change
    has_ranges: bool


def look(filesystem: Any, url: str) -> WebFacts:
    """The facts of a file, of which one byte is asked for: servers that sign requests often refuse HEAD."""
    return _run(filesystem, _look, filesystem, url)


def open_file(filesystem: Any, url: str) -> StoreFile:
    """The file: in parts where the server gives parts, else a copy of the whole."""
    facts = look(filesystem, url)
    if facts.has_ranges and facts.size is not None:
        return _Parts(filesystem, url, facts.size, facts.mark)
    if (facts.size or 0) > WHOLE_BYTES:
        raise _too_large(facts.size)
    return _Whole(filesystem, url, facts.mark)


class _Parts:
    def __init__(self, filesystem: Any, url: str, size: int, mark: str | None) -> None:
        self._filesystem = filesystem
        self._url = url
        self.size = size
        self.mark = mark

    def fetch(self, begin: int, end: int) -> bytes:
        return _run(self._filesystem, self._fetch, begin, end)

    async def _fetch(self, begin: int, end: int) -> bytes:
        async with await _get(self._filesystem, self._url, {"Range": f"bytes={begin}-{end - 1}"}) as response:
            response.raise_for_status()
            place = _RANGE.match(response.headers.get("Content-Range", ""))
            is_all = response.status == 200 and begin == 0 and end == self.size
            if _mark(response) != self.mark or (place and int(place["size"]) != self.size):
                raise faults.changed("(its size or ETag is another)")
            if not is_all and (response.status != 206 or not place or place["begin"] != str(begin)):
                raise faults.StoreFault(UNAVAILABLE, "the server answers other bytes than those that were asked for")
            return await _read(response, end - begin)

    def close(self) -> None:
        """Nothing is open between requests."""


class _Whole:
    """A copy in a file without a name, which memory does not hold."""

    def __init__(self, filesystem: Any, url: str, mark: str | None) -> None:
        self.mark = mark
        self._copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        try:
            self.size: int = _run(filesystem, self._fill, filesystem, url)
        except BaseException:
            self._copy.close()
            raise

    async def _fill(self, filesystem: Any, url: str) -> int:
        async with await _get(filesystem, url, {}) as response:
            response.raise_for_status()
            if _mark(response) != self.mark:
                raise faults.changed("(its ETag is another)")
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                self._copy.write(chunk)
                if self._copy.tell() > WHOLE_BYTES:
                    raise _too_large(None)
        return self._copy.tell()

    def fetch(self, begin: int, end: int) -> bytes:
        self._copy.seek(begin)
        return self._copy.read(end - begin)

    def close(self) -> None:
        self._copy.close()


def _run(filesystem: Any, coroutine: Callable[..., Any], *arguments: object) -> Any:
    """Result of a coroutine in the thread of fsspec."""
    return sync(filesystem.loop, coroutine, *arguments)


async def _look(filesystem: Any, url: str) -> WebFacts:
    async with await _get(filesystem, url, {"Range": "bytes=0-0"}) as response:
        place = _RANGE.match(response.headers.get("Content-Range", ""))
        if response.status == 416 and place and place["size"] == "0":
            return WebFacts(0, _mark(response), True)  # an empty file has no first byte
        response.raise_for_status()
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise faults.StoreFault(
                UNAVAILABLE, "the server compresses it, whatever is asked for: switch that off for media"
            )
        if response.status == 206:
            return WebFacts(int(place["size"]) if place else None, _mark(response), bool(place))
        return WebFacts(response.content_length, _mark(response), False)


async def _get(filesystem: Any, url: str, headers: dict[str, str]) -> ClientResponse:
    """The response, whose body is not read yet."""
    session, options = await filesystem.set_session(), dict(filesystem.kwargs)  # of FSSPEC_HTTP and FSSPEC_HTTPS
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity", **headers}
    timeout = ClientTimeout(total=faults.SECONDS_EACH)
    return await session.get(filesystem.encode_url(url), headers=headers, timeout=timeout, **options)


async def _read(response: ClientResponse, num_bytes: int) -> bytes:
    """So many bytes of the body, or all where it is shorter."""
    parts, left = [], num_bytes
    while left and (part := await response.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _mark(response: ClientResponse) -> str | None:
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _too_large(size: int | None) -> faults.StoreFault:
    limit = WHOLE_BYTES // 2**20
    has = f"{size / 2**20:,.0f} MiB" if size else f"more than {limit} MiB"
    return faults.StoreFault(
        UNAVAILABLE,
        f"the server gives no parts of files, and this one has {has}, above the limit of {limit} MiB: "
        "use a server that answers range requests, or copy the data",
    )
