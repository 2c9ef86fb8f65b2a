"""Scores as torchmetrics `Metric`s, so that they add up over ranks.

A score takes an answer and its question and is between 0 and 1; `SCORES` names them. What a benchmark reports is their
mean (torchmetrics' MeanMetric), the mean of its categories' means (`MeanOfCategories`), or MME's sum (`MmeScore`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import edit_distance, squad

from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.text_scores import exact_text, number, token_f1
from lightning_apollo.inference.parsers import find_choice, find_numbers, find_span

ANLS_THRESHOLD = 0.5  # of the normalised distance; farther answers score nothing (ANLS, arXiv 1905.13648, section 3)
RELAXED_SHARE = 0.05  # how far a number may be off (ChartQA, arXiv 2203.10244, section 5.1)
RECALL_THRESHOLDS = (0.3, 0.5, 0.7)  # overlaps that VideoLLaMA 3's evaluation of Charades-STA counts

Score = Callable[[str, Question], float]


def is_exact_match(answer: str, expected: str) -> bool:
    """Whether an answer equals the expected one, letter case and outer white space aside."""
    return answer.strip().lower() == expected.strip().lower()


def same_text(answer: str, question: Question) -> float:
    """Whether the answer is an expected one, letter case and outer white space aside."""
    return float(any(is_exact_match(answer, expected) for expected in question.answers))


def choice(answer: str, question: Question) -> float:
    """Whether the answer names the right choice; one that names none is wrong."""
    index = find_choice(answer, question.choices)
    if index is None:
        return 0.0
    found = question.choices[index]
    return float((found.label or found.text) in question.answers)


def short_answer(answer: str, question: Question) -> float:
    """Whether the answer is an expected one, but for case, punctuation and articles (torchmetrics, as SQuAD does)."""
    expected = {"answers": {"answer_start": [0] * len(question.answers), "text": list(question.answers)}, "id": ""}
    return float(squad([{"prediction_text": answer, "id": ""}], [expected])["exact_match"]) / 100


def relaxed(answer: str, question: Question) -> float:
    """ChartQA's relaxed accuracy: a number may be off by 5 %, any other answer must be the same text.

    A percentage is a number of hundredths, as in pix2struct's and Qwen-VL's evaluation, from which published figures come.
    """
    return float(any(_is_close(answer.strip().rstrip("."), expected) for expected in question.answers))


def _is_close(answer: str, expected: str) -> bool:
    number, target = _number(answer), _number(expected)
    if number is None or not target:
        return is_exact_match(answer, expected)
    return abs(number - target) <= RELAXED_SHARE * abs(target)


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None


def anls(answer: str, question: Question) -> float:
    """1 less the edit distance over the longer length, 0 where that is 0.5 or more off; the best of the answers."""
    given = " ".join(answer.lower().split())
    return max(_similarity(given, " ".join(expected.lower().split())) for expected in question.answers)


def _similarity(given: str, expected: str) -> float:
    longest = max(len(given), len(expected))
    distance = float(edit_distance([given], [expected])) / longest if longest else 0.0
    return 1 - distance if distance < ANLS_THRESHOLD else 0.0


def span_overlap(answer: str, question: Question) -> float:
    """Intersection over union of the span that the answer gives and the expected one, in seconds; 0 without a span."""
    given, expected = find_span(answer), find_span(question.answers[0])
    if given is None or expected is None:
        return 0.0
    shared = max(0.0, min(given[1], expected[1]) - max(given[0], expected[0]))
    union = (given[1] - given[0]) + (expected[1] - expected[0]) - shared
    return shared / union if union > 0 else 0.0


def contains(answer: str, question: Question) -> float:
    """Whether an expected answer occurs in the given one, letter case aside (OCRBench)."""
    given = answer.lower().replace("\n", " ")
    return float(any(expected.lower().strip().replace("\n", " ") in given for expected in question.answers))


def contains_formula(answer: str, question: Question) -> float:
    """Whether an expected formula occurs in the answer, white space aside (OCRBench's HME100k)."""
    given = "".join(answer.split())
    return float(any("".join(expected.split()) in given for expected in question.answers))


def open_answer(answer: str, question: Question) -> float:
    """Whether the answer holds an expected number, to two decimals, or an expected text (MMMU's open questions).

    MMMU's own code looks only behind words such as "therefore" where the answer has any; asked for a single word, answers
    are of one piece.
    """
    numbers = {round(number, 2) for number in find_numbers(answer)}
    for expected in question.answers:
        target = _number(expected.replace(",", ""))
        if target is None:
            wanted = expected.lower().strip()
            if wanted in answer.lower() if len(wanted) > 1 else wanted in answer.lower().split():
                return 1.0
        elif round(target, 2) in numbers:
            return 1.0
    return 0.0


SCORES: dict[str, Score] = {
    score.__name__: score
    for score in (
        *(same_text, choice, short_answer, relaxed, anls),
        *(span_overlap, contains, contains_formula, open_answer),
        *(exact_text, token_f1, number),
    )
}


def score_of(answer: str, question: Question) -> float:
    """The score of an answer by its question's own metric."""
    return SCORES[question.metric](answer, question)


class ExactMatch(Metric):
    """The share of answers that `is_exact_match` takes for right."""

    higher_is_better = True
    full_state_update = False
    num_right: Tensor
    num_answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("num_right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_answers", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, answer: str, expected: str) -> None:
        self.num_right += int(is_exact_match(answer, expected))
        self.num_answers += 1

    def compute(self) -> Tensor:
        return self.num_right.double() / self.num_answers.clamp(min=1)


class MeanOfCategories(Metric):
    """The mean of the categories' mean scores, those without an answer aside: a small one counts like a large one."""

    higher_is_better = True
    full_state_update = False
    totals: Tensor  # (K,)
    counts: Tensor  # (K,)

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__()
        self.categories = tuple(categories)
        self.add_state("totals", torch.zeros(len(categories), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(categories), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, score: float, question: Question) -> None:
        index = self.categories.index(question.category)
        self.totals[index] += score
        self.counts[index] += 1

    def compute(self) -> Tensor:
        asked = self.counts > 0
        return (self.totals[asked] / self.counts[asked]).sum() / asked.sum().clamp(min=1)


class MmeScore(Metric):
    """MME's score: for every category 100 times its accuracy and its accuracy+, added up (arXiv 2306.13394, section 2.2).

    Accuracy+ is the share of images whose questions are all answered rightly. Answers about one image may come from
    several ranks; an image is known by a hash of its path.
    """

    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]  # of (1, 3) int64: category, image, right or not

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__()
        self.categories = tuple(categories)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, score: float, question: Question) -> None:
        image = int.from_bytes(hashlib.blake2b(question.scene.encode(), digest_size=7).digest(), "big")
        row = (self.categories.index(question.category), image, int(score))
        self.rows.append(torch.tensor([row], dtype=torch.int64, device=self.device))

    def compute(self) -> Tensor:
        rows = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows  # one tensor once ranks are gathered
        score = torch.zeros((), dtype=torch.float64, device=rows.device)
        for category in rows[:, 0].unique():
            of_category = rows[rows[:, 0] == category]
            images, place = of_category[:, 1].unique(return_inverse=True)
            right = torch.ones_like(images).scatter_reduce(0, place, of_category[:, 2], "amin")
            score += 100 * (of_category[:, 2].double().mean() + right.double().mean())
        return score
