"""Parse boxes in a free-text answer."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = r"\d+(?:\.\d+)?"
_BOX = re.compile(r"[\[(<]\s*" + r"\s*,\s*".join([rf"({_NUMBER})"] * 4) + r"\s*[\])>]")


class Box(NamedTuple):
    """A rectangle in the unit of the answer: pixels, thousandths or shares of the picture, as the model was taught."""

    left: float
    top: float
    right: float
    bottom: float


def find_boxes(answer: str) -> list[Box]:
    """All boxes that the answer writes as four numbers in brackets, "[10, 20, 110, 220]", whichever corners they name."""
    boxes: list[Box] = []
    for match in _BOX.finditer(answer):
        x, y, other_x, other_y = (float(number) for number in match.groups())
        boxes.append(Box(min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)))
    return boxes
