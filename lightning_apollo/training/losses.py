"""The loss of a stage."""

import torch
from torch import Tensor
from torch.nn import functional


def token_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy summed over L labelled tokens, in nats, in float32 or wider; 0 where there is none.

    logits: (L, vocabulary); targets: (L,) int64. A stage divides by the number of labels of the whole optimizer step.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(logits.to(wide), targets, reduction="sum")
