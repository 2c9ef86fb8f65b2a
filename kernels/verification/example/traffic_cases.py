"""Softmax case for `verification.traffic`, 16 rows of bfloat16."""

import torch
from row_softmax import softmax

CASES = {"softmax": lambda: softmax(torch.zeros(16, 1024, dtype=torch.bfloat16))}
