"""Parse numbers in a free-text answer."""

from __future__ import annotations

import re

# Commas of thousands or none, then decimals and an exponent; ".5" as well. The right edge is not inside "1.2.3" or "1,23".
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![.,]?\d)"

_AT_LEFT_EDGE = re.compile(rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9_]\.)(?<!\d,)(?<![A-Za-z_][-−])(?P<number>{NUMBER})")


def to_float(number: str) -> float:
    """The value of a match of `NUMBER`."""
    return float(number.replace(",", ""))


def find_numbers(answer: str) -> list[float]:
    """All numbers of the answer, in order, with commas of thousands, exponents and signs read: "-1,200.5" is one.

    A number is read from its left edge: "x5", "1.2.3" and "1,23" have none. A unit may touch it ("$5", "50%", "5km"). The
    line between two numbers, "3-5", is no sign.
    """
    return [_signed(answer, match) for match in _AT_LEFT_EDGE.finditer(answer)]


def _signed(answer: str, match: re.Match[str]) -> float:
    is_negative = (
        re.search(r"(?:^|[^A-Za-z0-9_)\]%.])[-−][$€£¥]?$", answer[max(0, match.start() - 3) : match.start()])
        is not None
    )
    return -to_float(match["number"]) if is_negative else to_float(match["number"])


def find_number(answer: str) -> float | None:
    """The one number of the answer, however often it is said; None without a number or with several."""
    found = set(find_numbers(answer))
    return found.pop() if len(found) == 1 else None
