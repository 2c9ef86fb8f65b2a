"""Media markers in text: the two that are read and the refused spellings of other tools."""

from __future__ import annotations

import re
from collections.abc import Collection

from lightning_apollo.data.conversation import RowError

_NATIVE = re.compile(r"<(image|video)>")
_KIND = r"(?:image|img|im|video|vid|vision|audio|speech|sound|media)"
_AFTER = r"(?:[ _-]?(?:\d+|x|i|n|pad|start|end|begin|context|content|here|token|patch|placeholder|soft[ _-]token))"
_FOREIGN = re.compile(
    rf"<(image|img|video|audio)>[^<\n]*</\1>"  # <img>a.jpg</img>
    rf"|<\|(?!im_start\||im_end\|){_KIND}{_AFTER}*\|>"  # <|image_pad|>
    rf"|<(?!im>|img>|vid>|vision>|media>|sound>){_KIND}{_AFTER}*>"  # <Image>, <image_1>, <ImageHere>; not the tag <img>
    r"|<(?:start|end)_of_(?:image|video|audio)>"
    r"|<(?:bbox|ref[-_]object|image_soft_token)>"
    r"|\[(?:img(?:_?\d+|_break|_end)?|(?:image|video)_?\d+)\]|(?-i:\[IMAGE\])",  # not the words [image] and [VIDEO]
    re.IGNORECASE,
)
# In a row that lists media also words that other texts may hold, such as tags of HTML
_FOREIGN_BESIDE_MEDIA = re.compile(
    rf"{_FOREIGN.pattern}"
    rf"|<\s*(?:{_KIND}|pic|picture|photo|frame)s?{_AFTER}*\s*/?>|<__media__>"
    r"|\[(?:image|img|video|picture|photo|frame)s?\](?!\()|\{(?:image|video)s?\}",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


def split_markers(text: str, is_beside_media: bool) -> list[str]:
    """Text, `image` or `video`, text, and so on: the odd places are what the markers name.

    RowError for a marker in the spelling of another tool; inside `code` those are text. `is_beside_media`: the row lists
    files that a marker can stand for.
    """
    pieces = _NATIVE.split(text)
    num_markers = len(pieces) // 2
    if "[" not in text and "{" not in text and text.count("<") == num_markers:
        return pieces
    foreign = _first(_FOREIGN_BESIDE_MEDIA if is_beside_media else _FOREIGN, text, but=("<image>", "<video>"))
    if foreign is not None:
        raise RowError(
            f"the text has {foreign[:40]!r}, which is no marker here: write <image> or <video>, "
            "or put it between `backticks` where it is meant as text"
        )
    return pieces


def refuse_any(text: str, where: str, fix: str = "show media in a turn of the user") -> None:
    """RowError for every marker in a text that shows no media, but for those inside `code`."""
    if "<" not in text and "[" not in text:
        return
    found = _first(_NATIVE, text) or _first(_FOREIGN, text)
    if found is not None:
        raise RowError(f"{found[:40]!r} in {where}: {fix}, or put it between `backticks` where it is meant as text")


def _first(pattern: re.Pattern[str], text: str, but: Collection[str] = ()) -> str | None:
    if all(found[0] in but for found in pattern.finditer(text)):
        return None
    outside = _CODE.sub(" ", text)
    return next((found[0] for found in pattern.finditer(outside) if found[0] not in but), None)
