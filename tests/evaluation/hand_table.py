"""Results worked out by hand for every rule of curation. Eight questions, four models."""

from collections.abc import Mapping, Sequence

from lightning_apollo.evaluation.curate.choose import Curation
from lightning_apollo.evaluation.results import MODES, QuestionResult

MODELS = "abcd"
# Category, and who of a, b, c, d is right in the modes full, single_frame, blind.
ANSWERS = {
    "q1": ("ocr", "1100", "0000", "0000"),
    "q2": ("ocr", "1000", "1100", "0011"),  # half of the models without the video: not more than half
    "q3": ("ocr", "1110", "0000", "0000"),  # the entropy of q2
    "q4": ("ocr", "1111", "0000", "0000"),
    "q5": ("ocr", "1010", "1110", "0000"),
    "q6": ("reasoning", "1100", "0000", "1110"),
    "q7": ("reasoning", "1110", "1111", "1111"),
    "q8": ("reasoning", "0000", "0000", "0000"),
}
OUTCOMES = {
    "q1": "kept",
    "q2": "kept",
    "q3": "below the top of its category",
    "q4": "below the top of its category",
    "q5": "answered in single_frame",
    "q6": "answered in blind",
    "q7": "answered in single_frame and blind",
    "q8": "kept",  # the only one of its category that is left
}
QUARTER = 0.8112781244591328  # bits of 1/4: 2 − 3/4·log2(3)
ENTROPIES = {"q1": 1, "q2": QUARTER, "q3": QUARTER, "q4": 0, "q5": 1, "q6": 1, "q7": QUARTER, "q8": 0}


def results_of(answers: Mapping[str, Sequence[str]]) -> list[QuestionResult]:
    return [
        QuestionResult("hand", name, category, model, mode, bit, "1", bit == "1")
        for name, (category, *bits) in answers.items()
        for mode, by_model in zip(MODES, bits, strict=True)
        for model, bit in zip(MODELS, by_model, strict=False)
    ]


RESULTS = results_of(ANSWERS)


def kept(curation: Curation) -> set[str]:
    questions = curation.table.questions
    return {question.question_id for question, stays in zip(questions, curation.is_kept, strict=True) if stays}
