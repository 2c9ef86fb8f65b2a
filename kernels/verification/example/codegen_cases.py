"""Softmax cases for `verification.codegen`, in float32 and bfloat16."""

import torch
from row_softmax import softmax

from verification.codegen import Case


def run(n: int, dtype: torch.dtype) -> None:
    softmax(torch.empty(n, 1024, dtype=dtype))


CASES = {"softmax": Case(run, dtypes=(torch.float32, torch.bfloat16))}
