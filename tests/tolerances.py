"""Tolerances of all tests by dtype, with their reasons. Every test takes its tolerance from here."""

import torch

# Two orders of summation over up to a few thousand terms: some tens of units in the last place (float32: 1.2e-7).
SUMMATION = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}

# A few layers of a small model, where such differences add up. The issue of parity asks for 1e-4 on logits.
MODEL = {torch.float32: 1e-4, torch.float64: 1e-10}
