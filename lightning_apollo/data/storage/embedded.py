"""Pictures in data URLs of JSON rows: addressed when the row is read, decoded when they are opened."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from lightning_apollo.data.conversation import RowError
from lightning_apollo.data.storage import address as storage
from lightning_apollo.structures import MediaError

MAX_PICTURE_BYTES = 32 * 2**20  # of a decoded data URL

_MEDIA_KEYS = {"image", "images", "image_url", "video", "videos", "video_url"}
_MARKS = (b"data:", b"iVBORw0KGgo", b"/9j", b"R0lGOD", b"UklGR", b"AAAA")  # no row without one of them is walked
_HEAD = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
_BARE_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|AAAA)[A-Za-z0-9+/\s]{48,}={0,2}\s*")

_AddressOf = Callable[[tuple[str, ...]], storage.EmbeddedAddress]


def lift_pictures(row: object, raw: bytes, address: str, number: int, begin: int) -> object:
    """The row with the address of the picture in the place of each data URL below a media key.

    raw: the row's bytes, which begin at byte `begin` of the file at `address`; number: of the row, from 1.
    RowError for pictures above the limit, films, and base64 without the head of a data URL.
    """
    if not any(mark in raw for mark in _MARKS):
        return row
    span = (begin, len(raw))
    return _lift(row, (), False, lambda steps: storage.embedded_address(address, number, steps, span))


def open_picture(address: str, raw: bytes, steps: Sequence[str]) -> bytes:
    """The bytes of the picture at `steps` (keys, and numbers in lists) of a row."""
    try:
        value: object = json.loads(raw)
        for step in steps:
            value = value[int(step)] if isinstance(value, list) else value[step]  # pyright: ignore[reportIndexIssue] (else a TypeError)
        head, _, payload = str(value).partition(",")
    except (ValueError, LookupError, TypeError):
        raise MediaError(address, "the row has no such picture any more: the manifest changed") from None
    if not head.startswith("data:"):
        raise MediaError(address, "the row has no such picture any more: the manifest changed")
    content = b"".join(unquote_to_bytes(payload).split())
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error as error:
        raise MediaError(address, f"a data URL that is not base64 ({error}): write it anew") from None


def _lift(value: object, steps: tuple[str, ...], is_media: bool, address_of: _AddressOf) -> object:
    if isinstance(value, dict):
        return {
            key: _lift(item, (*steps, key), is_media or key in _MEDIA_KEYS, address_of) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_lift(item, (*steps, str(place)), is_media, address_of) for place, item in enumerate(value)]
    if not is_media or not isinstance(value, str):
        return value
    if value.startswith("data:"):
        _check(value)
        return address_of(steps)
    if _BARE_BASE64.fullmatch(value):
        raise RowError(f"{steps[0]!r} is base64 without its type: write data:image/...;base64, in front of it")
    return value


def _check(url: str) -> None:
    """RowError for a data URL that is no picture, or one too large."""
    head = _HEAD.match(url)
    if head is None:
        raise RowError(f"a data URL that begins {url[:32]!r}: write data:image/...;base64, and the picture")
    kind = head["type"].lower()
    if not kind.startswith("image/"):
        raise RowError(f"a data URL of type {kind[:40]}: only pictures are read from rows, write other media to files")
    if (len(url) - head.end()) * 3 // 4 > MAX_PICTURE_BYTES + 2:  # padding
        limit = MAX_PICTURE_BYTES // 2**20
        raise RowError(f"a picture of more than {limit} MiB in the row, the limit: write it to a file below the root")
