"""Rows of JSON: their places in a list or in lines, and the value of one."""

from __future__ import annotations

import io
import json
import re
from array import array

from lightning_apollo.data.conversation import RowError

_UNREADABLE = "nested too deeply, or with a number too long"
_LIST_OF_ROWS = re.compile(rb"\s*\[\s*(?:\{|$)")
_BLANKS = re.compile(r"[ \t\r\n]+")


class ListError(RowError):
    """A JSON list that cannot be read beyond one of its rows."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row  # from 1


def load(text: str) -> object:
    """The value of a row; RowError where it has none."""
    if text.isspace():
        raise RowError("blank: remove the line")
    text = text.rstrip("\r\n")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fix = "end lines with a line feed" if "\r" in text else "write one object on one line"
        raise RowError(f"not JSON ({error.msg} at character {error.pos + 1}): {fix}") from None
    except (RecursionError, ValueError) as error:  # JSON that Python does not read: too deep, a number too long
        raise RowError(f"{_UNREADABLE} ({error}): correct or remove the row") from None


def line_spans(file: io.BufferedReader, first: int) -> tuple[array[int], array[int]]:
    """Begin and end of each line, in bytes of the file, which is read from byte `first` on.

    Blank lines at the end of the file are no rows.
    """
    starts, ends, offset, num_rows = array("Q"), array("Q"), first, 0
    for line in file:
        if offset == first and _LIST_OF_ROWS.match(line):
            raise RowError("a JSON list where each line should be a row: name the file .json")
        starts.append(offset)
        offset += len(line)
        ends.append(offset)
        if not line.isspace():
            num_rows = len(starts)
    return starts[:num_rows], ends[:num_rows]


def list_spans(file: io.BufferedReader, first: int) -> tuple[array[int], array[int]]:
    """Begin and end of each element of a JSON list, in bytes of the file, which is read from byte `first` on."""
    # Read as Latin-1, one character is one byte, and the characters that JSON is built of are the same in UTF-8.
    text = file.read().decode("latin-1")
    starts, ends = array("Q"), array("Q")
    decoder = json.JSONDecoder()
    position = _after_blanks(text, 0)
    if text[position : position + 1] != "[":
        raise RowError(_no_list(decoder, text, position))
    position = _after_blanks(text, position + 1)
    while text[position : position + 1] != "]":
        begin = position
        try:
            _, end = decoder.raw_decode(text, position)
            starts.append(first + position)
            ends.append(first + end)
            position = _after_blanks(text, end)
            if text[position : position + 1] == ",":
                position = _after_blanks(text, position + 1)
            elif text[position : position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg} on line {error.lineno}): correct the file there"
            raise ListError(len(starts) + 1, _not_utf8(text, begin, error.pos) or reason) from None
        except (RecursionError, ValueError) as error:
            raise ListError(len(starts) + 1, f"{_UNREADABLE} ({error}): correct or remove the row") from None
    return starts, ends


def _no_list(decoder: json.JSONDecoder, text: str, position: int) -> str:
    """Diagnosis of a .json file that does not begin with a list, and the fix."""
    reason = "not a JSON list: write [row, row, ...], or name a file of lines .jsonl"
    try:
        value, end = decoder.raw_decode(text, position)
    except (ValueError, RecursionError):
        return _not_utf8(text, position, len(text)) or reason
    if not isinstance(value, dict) or text[_after_blanks(text, end) :]:
        return reason
    keys = ", ".join(repr(key.encode("latin-1", "replace").decode(errors="replace")[:40]) for key in list(value)[:8])
    return f"an object with the keys {keys}, not a list: write its list of rows to a file of its own"


def _not_utf8(text: str, begin: int, end: int) -> str | None:
    """The encoding error up to byte `end` and a little beyond, of bytes read as Latin-1; None for good UTF-8."""
    raw = text[begin : end + 4].encode("latin-1")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8"
    return None


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position
