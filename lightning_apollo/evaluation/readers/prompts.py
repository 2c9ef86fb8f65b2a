"""Prompt wordings shared by several benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_apollo.evaluation.question import listed
from lightning_apollo.inference.parsers import Choice

BEST_LETTER = "Answer with the option's letter from the given choices directly and only give the best option."
LETTER = "Answer with the option's letter from the given choices directly."
WORD_OR_PHRASE = "Answer the question using a single word or phrase."


def with_options(question: str, choices: Sequence[Choice]) -> str:
    """VideoLLaMA 3's wording for MLVU, MVBench, NExT-QA and the Perception Test (its evaluation/benchmarks)."""
    return f"Question: {question}\nOptions:\n{listed(choices)}{BEST_LETTER}"


def with_letters(question: str, choices: Sequence[Choice]) -> str:
    """The wording of multiple choice about images (VideoLLaMA 3, section 4.1; lmms-eval)."""
    return f"{question}\n{listed(choices, '{0}. {1}')}{LETTER}"
