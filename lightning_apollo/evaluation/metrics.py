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

from lightning_apollo.evaluation.open_answers import holds_answer
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.text_scores import exact_text, number, token_f1
from lightning_apollo.inference.parsers import find_choice, find_span, without_thinking

ANLS_THRESHOLD = 0.5  # answers that are less alike score nothing (ANLS, arXiv 1905.13648, section 3)
RELAXED_SHARE = 0.05  # how far a number may be off (ChartQA, arXiv 2203.10244, section 5.1)
RECALL_THRESHOLDS = (0.3, 0.5, 0.7)  # overlaps that VideoLLaMA 3's evaluation of Charades-STA counts

ScoreFunction = Callable[[str, Question], float]


def is_exact_match(answer: str, expected: str) -> bool:
    """True if an answer equals the expected one, letter case and outer white space aside."""
    return answer.strip().lower() == expected.strip().lower()


def same_text(answer: str, question: Question) -> float:
    """1 if the answer is an expected one, letter case and outer white space aside."""
    return float(any(is_exact_match(answer, expected) for expected in question.answers))


def choice(answer: str, question: Question) -> float:
    """1 if the answer names the right choice; one that names none is wrong."""
    index = find_choice(answer, question.choices)
    if index is None:
        return 0.0
    found = question.choices[index]
    return float((found.label or found.text) in question.answers)


def short_answer(answer: str, question: Question) -> float:
    """1 if the answer is an expected one, but for case, punctuation and articles (torchmetrics, as SQuAD does)."""
    expected = {"answers": {"answer_start": [0] * len(question.answers), "text": list(question.answers)}, "id": ""}
    return float(squad([{"prediction_text": answer, "id": ""}], [expected])["exact_match"]) / 100


def relaxed(answer: str, question: Question) -> float:
    """ChartQA's relaxed accuracy (arXiv 2203.10244, section 5.1): a number may be off by 5 %, other answers are the same text.

    As in pix2struct's metrics.py (relaxed_correctness), from which published figures come: a percentage is a number of
    hundredths, "14%" is 0.14; beside a target of zero the text must be the same; a year is a number like any other; case
    does not count, a full stop does.
    """
    return float(any(is_close(answer.strip(), expected) for expected in question.answers))


def is_close(answer: str, expected: str, factors: Sequence[float] = (1,)) -> bool:
    """True if the answer times one of the factors is within 5 % of the expected number; the same text otherwise."""
    value, target = relaxed_number(answer), relaxed_number(expected)
    if value is None or not target:
        return answer.lower() == expected.lower()
    return any(abs(value * factor - target) / abs(target) <= RELAXED_SHARE for factor in factors)


def relaxed_number(text: str) -> float | None:
    """The number that the text is, as relaxed accuracy reads it."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(answer: str, question: Question) -> float:
    """1 less the edit distance over the longer length, 0 below one half; the best of the expected answers.

    Case and runs of white space do not count in the distance, but do in the lengths: as in the organisers' script of
    DocVQA and InfographicVQA (evaluate_method, rrc.cvc.uab.es), where an answer that is exactly one half off scores 0.5.
    """
    best = max(_similarity(answer, expected) for expected in question.answers)
    return best if best >= ANLS_THRESHOLD else 0.0


def _similarity(given: str, expected: str) -> float:
    longest = max(len(given.upper()), len(expected.upper()))
    one, other = (" ".join(text.lower().split()) for text in (given, expected))
    return 1 - float(edit_distance([one], [other])) / longest if longest else 1.0


def span_overlap(answer: str, question: Question) -> float:
    """Intersection over union of the span that the answer gives and the expected one, in seconds; 0 without a span.

    Spans that touch share nothing, a reversed one is turned round, an empty one scores 0: calculate_IoU in TALL's main.py,
    the organisers' code of Charades-STA, and lmms-eval's charades_sta/eval_tvg.py, which turns spans round.
    """
    return _overlap(find_span(answer), find_span(question.answers[0]))


def fraction_overlap(answer: str, question: Question) -> float:
    """`span_overlap` where shares of the video are asked for: 0.25 and 25 % are one place, a time is none."""
    return _overlap(find_span(answer, "fractions"), find_span(question.answers[0], "fractions"))


def _overlap(given: tuple[float, float] | None, expected: tuple[float, float] | None) -> float:
    if given is None or expected is None:
        return 0.0
    shared = max(0.0, min(given[1], expected[1]) - max(given[0], expected[0]))
    union = (given[1] - given[0]) + (expected[1] - expected[0]) - shared
    return shared / union if union > 0 else 0.0


def contains(answer: str, question: Question) -> float:
    """1 if an expected answer occurs in the given one, letter case aside (OCRBench)."""
    given = answer.lower().replace("\n", " ")
    return float(any(expected.lower().strip().replace("\n", " ") in given for expected in question.answers))


def contains_formula(answer: str, question: Question) -> float:
    """1 if an expected formula occurs in the answer, white space aside (OCRBench's HME100k)."""
    given = "".join(answer.split())
    return float(any("".join(expected.split()) in given for expected in question.answers))


def open_answer(answer: str, question: Question) -> float:
    """1 if the answer holds an expected number, to two decimals, or an expected text (MMMU's open questions)."""
    return float(holds_answer(answer, question.answers))


SCORES: dict[str, ScoreFunction] = {
    score.__name__: score
    for score in (
        *(same_text, choice, short_answer, relaxed, anls),
        *(span_overlap, fraction_overlap, contains, contains_formula, open_answer),
        *(exact_text, token_f1, number),
    )
}


def score_of(answer: str, question: Question) -> float:
    """The score of an answer by its question's own metric, whatever was thought before it."""
    return SCORES[question.metric](without_thinking(answer), question)


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
