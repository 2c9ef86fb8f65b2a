"""Scores of free answers: exact match, token F1 and numbers.

Texts are compared as tokens, as SQuAD's evaluation does (arXiv 1606.05250, section 6.1): letter case, articles and
punctuation aside. Differences from it: points and colons inside numbers and signs before them stay, so that 1.5 is not 15;
signs that are no punctuation stay ("C++"); hyphens part words; a Chinese or Japanese character is a token.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter

from lightning_apollo.evaluation.question import Question
from lightning_apollo.inference.parsers import find_numbers

_ARTICLES = frozenset(("a", "an", "the"))
_CHARACTER = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"  # of kana and Han
_TOKEN = re.compile(rf"(?<!\w)[-+]?\d+(?:[.,:]\d+)*|{_CHARACTER}|(?:(?!{_CHARACTER})\w)+(?:['’]\w+)*|[^\w\s]")
_PUNCTUATION = frozenset(".,;:!?'\"`…。，、！？：；·’‘“”")
_BRACKETS_AND_DASHES = frozenset(("Ps", "Pe", "Pi", "Pf", "Pd"))


def exact_text(answer: str, question: Question) -> float:
    """1 if the answer has the tokens of an expected one, in their order."""
    given = compared_words(answer)
    return float(any(given == compared_words(expected) for expected in question.answers))


def token_f1(answer: str, question: Question) -> float:
    """Harmonic mean of the shares of tokens that the answer and the expected one have in common; the best of the answers."""
    return max(_f1(compared_words(answer), compared_words(expected)) for expected in question.answers)


def number(answer: str, question: Question) -> float:
    """1 if the answer names the expected number and no other; units and words around it do not count."""
    given = find_numbers(answer)
    return float(bool(given) and any(_all_equal(given, find_numbers(expected)) for expected in question.answers))


def compared_words(text: str) -> list[str]:
    """Words of a text that are compared; all of them where nothing else is left."""
    found = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    kept = [token for token in found if token not in _ARTICLES and not _is_punctuation(token)]
    return kept or text.casefold().split()


def _is_punctuation(token: str) -> bool:
    return token in _PUNCTUATION or (len(token) == 1 and unicodedata.category(token) in _BRACKETS_AND_DASHES)


def _f1(given: list[str], expected: list[str]) -> float:
    shared = sum((Counter(given) & Counter(expected)).values())
    return 2 * shared / (len(given) + len(expected)) if shared else float(given == expected)


def _all_equal(given: list[float], expected: list[float]) -> bool:
    return len(expected) == 1 and all(math.isclose(one, expected[0], rel_tol=1e-6) for one in given)
