"""Text encodings of JSON manifests: UTF-8 is read in place, UTF-16 and UTF-32 through a copy in the cache folder."""

from __future__ import annotations

import codecs
from functools import partial
from pathlib import Path

from lightning_apollo.data.conversation import RowError
from lightning_apollo.data.storage import address as storage

_CHUNK_BYTES = 2**20
_ENCODINGS = (  # the mark of UTF-32 LE begins with that of UTF-16 LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def as_utf8(address: str) -> str:
    """The address itself, or that of its UTF-8 copy where a byte order mark says UTF-16 or UTF-32.

    RowError for what is neither: UTF-16 or UTF-32 without the mark, or bytes that the marked encoding does not have.
    """
    with storage.open_address(address) as file:
        head = file.read(4)
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return str(storage.derived_file(address, "utf8", partial(_convert, address, mark, encoding)))
    if b"\0" in head:
        raise RowError("zero bytes between characters, as in UTF-16 without a byte order mark: save the file as UTF-8")
    return address


def mark_bytes(head: bytes) -> int:
    """Bytes of the UTF-8 byte order mark at the start of a file: 3 or 0."""
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def decode_text(raw: bytes) -> str:
    """The text of a row. RowError for bytes that are not UTF-8, and for a byte order mark, which only a file has."""
    if raw.startswith(codecs.BOM_UTF8):
        raise RowError("a byte order mark inside the file, as joined files have it: remove these three bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8") from None


def decode_file(raw: bytes) -> str:
    """The text of a whole file, in the encoding that its byte order mark names; RowError as for the others."""
    for mark, encoding in _ENCODINGS:
        if raw.startswith(mark):
            try:
                return raw[len(mark) :].decode(encoding)
            except UnicodeError as error:
                raise RowError(f"not {encoding.upper()} ({error}): save the file as UTF-8") from None
    return decode_text(raw[mark_bytes(raw) :])


def _convert(address: str, mark: bytes, encoding: str, target: Path) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    num_read = len(mark)
    with storage.open_address(address) as source, target.open("wb") as copy:
        source.seek(num_read)
        while True:
            chunk = source.read(_CHUNK_BYTES)
            try:
                copy.write(decoder.decode(chunk, final=not chunk).encode())
            except UnicodeError as error:
                reason = f"not {encoding.upper()} near byte {num_read + 1}, though its byte order mark says so"
                raise RowError(f"{reason}: save the file as UTF-8") from error
            if not chunk:
                return
            num_read += len(chunk)
