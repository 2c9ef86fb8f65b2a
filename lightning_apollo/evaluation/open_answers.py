"""MMMU's rule for open questions: the expected text or number in the part of the answer that concludes it."""

from __future__ import annotations

from lightning_apollo.inference.parsers import find_numbers

_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")


def holds_answer(answer: str, expected: tuple[str, ...]) -> bool:
    """True if a conclusion of the answer holds an expected text, or a number equal to two decimals.

    "12%" is a text, and a text of one letter needs a space beside it, as in parse_open_response and eval_open of MMMU's
    eval/eval_utils.py. Numbers are read from their left edge, where MMMU's code also finds 200 in "1,200" and takes ".5" for 5.
    """
    said: set[str | float] = set()
    for conclusion in _conclusions(answer):
        said |= _normalised(conclusion)
        said |= {round(number, 2) for number in find_numbers(conclusion)}
    wanted = {value for text in expected for value in _normalised(text)}
    texts = [value for value in wanted if isinstance(value, str)]
    return any(text in value for value in said if isinstance(value, str) for text in texts) or any(
        isinstance(value, float) and value in wanted for value in said
    )


def _conclusions(answer: str) -> list[str]:
    """The shortest tail of each line behind a word such as "therefore", in the last line behind "=" as well; without any,
    the whole answer.
    """
    whole = answer.strip().rstrip(".").lower()
    lines = whole.split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        leads = (*_LEADS, "=") if number == len(lines) else _LEADS
        tails = [line.split(lead)[-1].strip() for lead in leads if lead in line]
        shortest = min(tails, key=len, default="")
        if shortest and shortest not in _TRIVIAL:
            found.append(shortest)
    return found or [whole]


def _normalised(text: str) -> set[str | float]:
    text = text.strip()
    try:
        return {round(float(text.replace(",", "")), 2)}
    except ValueError:
        text = text.lower()
    return {f" {text}", f"{text} "} if len(text) == 1 else {text}
