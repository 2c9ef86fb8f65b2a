"""Cases of `verification.traffic`."""

import torch
from row_softmax import softmax

CASES = {"softmax": lambda: softmax(torch.zeros(16, 1024, dtype=torch.bfloat16))}
