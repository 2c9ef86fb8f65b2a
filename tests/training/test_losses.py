"""The summed loss against the formula."""

import math

import torch

from lightning_apollo.training.losses import token_loss_sum


def test_it_is_the_sum_of_negative_log_shares() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = token_loss_sum(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2.0) + math.log(4.0 / 3.0)))


def test_half_precision_is_summed_in_float32_and_float64_stays() -> None:
    logits = torch.randn(64, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.arange(64) % 11
    rounded = logits.bfloat16()
    half = token_loss_sum(rounded, targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), token_loss_sum(rounded.double(), targets), rtol=1e-6, atol=0)
    assert token_loss_sum(logits, targets).dtype == torch.float64


def test_no_label_gives_zero_and_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = token_loss_sum(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
