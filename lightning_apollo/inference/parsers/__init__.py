"""Parsers of free-text answers.

A parser refuses, with None or an empty list, where an answer leaves open what it means: it never takes the first of several.
"""

from lightning_apollo.inference.parsers.boxes import Box, find_boxes
from lightning_apollo.inference.parsers.choices import Choice, find_choice
from lightning_apollo.inference.parsers.numbers import find_number, find_numbers
from lightning_apollo.inference.parsers.spans import find_span, find_spans
from lightning_apollo.inference.parsers.wrapping import final_answer, without_thinking

__all__ = [
    "Box",
    "Choice",
    "final_answer",
    "find_boxes",
    "find_choice",
    "find_number",
    "find_numbers",
    "find_span",
    "find_spans",
    "without_thinking",
]
