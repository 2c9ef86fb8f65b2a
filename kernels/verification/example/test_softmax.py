"""The kernel against float64 and under the sanitizer in two orders of its programs."""

import pytest
import torch
from row_softmax.softmax import _softmax_kernel, softmax
from torch import Tensor
from torch.testing import assert_close

from verification.far import far
from verification.sanitizer import Sanitizer

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def reference(x: Tensor) -> Tensor:
    """(N, C) float64, by the definition."""
    weights = x.double().exp()
    return weights / weights.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (7, 5), (9, 17)])
def test_rows_add_up_to_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    for seed in (1, 2):
        with Sanitizer(shuffle=seed) as watch:
            y = softmax(x)
        assert watch.kernels == ["_softmax_kernel"]
        assert_close(y.double(), reference(x), atol=TOLERANCE[dtype], rtol=0)


def test_large_numbers_do_not_overflow() -> None:
    """Rows far above and far below zero: each needs its own maximum."""
    x = torch.tensor([[1000.0, 1000.0, -1000.0], [-1000.0, -1000.0, -3000.0]])
    with Sanitizer():
        assert softmax(x).tolist() == [[0.5, 0.5, 0.0]] * 2


def test_more_elements_than_32_bits_count() -> None:
    """The last program of 2³¹ + 8 rows of 2 elements: its rows lie 2³² elements after the first."""
    x, y = torch.zeros(8, 2), torch.empty(8, 2)
    first_row = 1 << 31
    with far(first_program=first_row // 4, x=first_row * 2, y_out=first_row * 2):
        _softmax_kernel[(2,)](x, y, first_row + 8, 2, 4, 2)
    assert y.tolist() == [[0.5, 0.5]] * 8
