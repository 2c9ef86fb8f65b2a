"""Unwrap answers from what models write around them. Thoughts, LaTeX boxes, JSON, Markdown, full-width signs."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from typing import Any

_THOUGHTS = r"think(?:ing)?|thoughts?|reason(?:ing)?"
_OPEN_THOUGHT = re.compile(rf"<(?:{_THOUGHTS})>.*", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf"</(?:{_THOUGHTS})>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(answer|final_answer)>(.*?)(?:</\1>|$)", re.DOTALL | re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|rm|bf|fbox|boxed)\s*\{([^{}]*)\}")
_FENCE = re.compile(r"```\w*")
_TAG = re.compile(r"</?(?:b|i|p|u|br|em|strong|span|div|option|choice|final|label)\s*/?>")
_STRUCK = re.compile(r"~~.*?~~|<(s|del)>.*?</\1>", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]*\}", re.DOTALL)
_ANSWER_KEYS = re.compile(
    r"(?:(?:final|correct|best)[ _]?)?(?:answer|choice|option|label|letter|prediction|response|result)|答案|选项|选择",
    re.IGNORECASE,
)


def without_thinking(answer: str) -> str:
    """Text behind the last </think>; a thought that was cut off leaves nothing."""
    return _OPEN_THOUGHT.sub("", _END_OF_THOUGHT.split(answer)[-1]).strip()


def final_answer(answer: str) -> str:
    r"""The words of the answer, unwrapped, in NFKC: `**Ｂ**`, `\boxed{\text{B}}` and `{"answer": "B"}` are B.

    Of several boxes nothing is left out: the text from the first one on is the answer. Struck-out words are dropped.
    """
    text = without_thinking(unicodedata.normalize("NFKC", answer))
    tagged = _ANSWER_TAG.findall(text)
    text = tagged[-1][1] if tagged else text
    text = _from_json(_FENCE.sub(" ", text)) or text
    text = _TAG.sub(" ", _STRUCK.sub(" ", _without_latex(_from_box(text))))
    return re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)|^\s*[#>]+\s", " ", text, flags=re.MULTILINE).strip()


def _from_box(text: str) -> str:
    r"""Contents of \boxed{} where all boxes hold the same, else the text from the first box on."""
    start = text.find("\\boxed")
    if start < 0:
        return text
    held = {content.strip() for content in re.findall(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text)}
    return held.pop() if len(held) == 1 else text[start:]


def _without_latex(text: str) -> str:
    before = None
    while before != text:
        before, text = text, _LATEX_TEXT.sub(r" \1 ", text)
    return re.sub(r"\\[()\[\]]|\$(?=\s*\(?[A-Za-z])|(?<=[A-Za-z)\s])\$", " ", text)


def _from_json(text: str) -> str:
    """The answer that a JSON object or list of the text names; empty where none does."""
    for candidate in (text, *reversed(_OBJECT.findall(text))):
        said = _said(_parsed(candidate.strip()))
        if said:
            return said
    return ""


def _parsed(text: str) -> Any:
    if not text.startswith(("{", "[", '"')):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _said(value: Any) -> str:
    if isinstance(value, dict):
        said = [_said(value[key]) for key in value if isinstance(key, str) and _ANSWER_KEYS.fullmatch(key.strip())]
        return said[0] if len(set(said)) == 1 else ""
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return str(value) if isinstance(value, (str, int, float)) else ""
