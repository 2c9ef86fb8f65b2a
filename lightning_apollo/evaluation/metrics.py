"""Scores as torchmetrics `Metric`s, so that they add up over ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric


def is_exact_match(answer: str, expected: str) -> bool:
    """Whether an answer equals the expected one, letter case and outer white space aside."""
    return answer.strip().lower() == expected.strip().lower()


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
