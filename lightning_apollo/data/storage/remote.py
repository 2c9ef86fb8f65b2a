"""Files in S3-compatible stores through s3fs. Only this file imports s3fs, and storage/address.py imports it with the
first object.

Endpoint, region and credentials are what AWS's own tools use: environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) or
configuration files.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aiohttp import ClientError
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError
from s3fs import S3FileSystem

from lightning_apollo.data.storage.byte_range import ByteRange
from lightning_apollo.structures import MediaError

_BLOCK_BYTES = 4 * 2**20  # asked for at one time
_NUM_BLOCKS = 8  # that an open object keeps


def open_object(address: str) -> io.BufferedReader:
    """The object, open for reading at any place; blocks are fetched as they are needed. Every error is a MediaError."""
    with _media_errors(address):
        file: Any = _filesystem().open(
            address, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": _NUM_BLOCKS}
        )
    return io.BufferedReader(ByteRange(file.size, partial(_read, address, file), file.close))


def object_state(address: str) -> tuple[int, int]:
    """Size in bytes and a number made from the ETag; -1 for both where the object cannot be reached."""
    try:
        with _media_errors(address):
            facts = _filesystem().info(address)
    except MediaError:
        return -1, -1
    etag = hashlib.sha256(str(facts.get("ETag")).encode()).digest()
    return int(facts["size"]), int.from_bytes(etag[:8]) >> 1  # 63 bits, as a time of change has


def list_objects(pattern: str) -> list[str]:
    """The addresses that match a pattern with `*`, `?` and `[...]`, sorted. MediaError where the store refuses."""
    with _media_errors(pattern):
        return sorted(f"s3://{path}" for path in _filesystem().glob(pattern))


def _filesystem() -> S3FileSystem:
    """This thread's own connections: s3fs keeps them for each process and thread, and makes new ones after a fork."""
    return S3FileSystem(use_listings_cache=False)


@contextmanager
def _media_errors(address: str) -> Iterator[None]:
    """Errors of s3fs, as MediaErrors."""
    try:
        yield
    except FileNotFoundError:
        raise MediaError(address, "no such object") from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise MediaError(address, f"{error}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except PermissionError as error:
        raise MediaError(address, f"access denied ({error}): check the AWS credentials and their rights") from error
    except (BotoCoreError, ClientError, OSError) as error:
        raise MediaError(address, f"the store does not answer ({type(error).__name__}: {error})") from error


def _read(address: str, file: Any, position: int, size: int) -> bytes:
    with _media_errors(address):
        file.seek(position)
        return file.read(size)
