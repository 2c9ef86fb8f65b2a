"""bfloat16 in the interpreter against torch. Every pattern, ties, NaN and infinities."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.testing import assert_close

PATTERNS = torch.arange(1 << 16, dtype=torch.int32)  # of bfloat16, the upper half of a float32


@triton.jit
def _convert(x, y_out, ROUNDING: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(y_out + offsets, tl.load(x + offsets).to(y_out.dtype.element_ty, fp_downcast_rounding=ROUNDING))


@triton.jit
def _operate(x, y, z_out, OPERATION: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    a, b = tl.load(x + offsets), tl.load(y + offsets)
    if OPERATION == "add":
        z = a + b
    elif OPERATION == "subtract":
        z = a - b
    elif OPERATION == "multiply":
        z = a * b
    elif OPERATION == "scale":
        z = a * 2.5
    elif OPERATION == "add to a half":
        z = tl.fma(a, tl.full((BLOCK,), 0.5, tl.bfloat16), b)
    elif OPERATION == "negate":
        z = -a
    elif OPERATION == "magnitude":
        z = tl.abs(a)
    elif OPERATION == "choose":
        z = tl.where(a < b, a, b)
    elif OPERATION == "choose both":
        z = tl.where((a < b) & (a != 0), a, b)
    tl.store(z_out + offsets, z)


@triton.jit
def _sum_rows(x, y_out, UPCAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.arange(0, ROWS)
    values = tl.load(x + rows[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
    if UPCAST:
        values = values.to(tl.float32)
    tl.store(y_out + rows, tl.sum(values, axis=1))


@triton.jit
def _multiply_matrices(x, y, z_out, SIDE: tl.constexpr):
    places = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    tl.store(z_out + places, tl.dot(tl.load(x + places), tl.load(y + places)))


def converted(x: Tensor, dtype: torch.dtype, rounding: str | None = None) -> Tensor:
    """x as `dtype`, by the interpreter."""
    y = torch.empty(x.shape, dtype=dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        _convert[(1,)](x, y, rounding, x.numel())
    return y


def assert_same_bits(result: Tensor, expected: Tensor) -> None:
    """Bit for bit, −0 included; any NaN is as good as another."""
    assert torch.equal(result.isnan(), expected.isnan())
    is_number = ~expected.isnan()
    assert torch.equal(result[is_number].view(torch.int16), expected[is_number].view(torch.int16))


def every_bfloat16() -> Tensor:
    return PATTERNS.to(torch.int16).view(torch.bfloat16)


def test_every_bfloat16_becomes_its_float32() -> None:
    floats = converted(every_bfloat16(), torch.float32)
    is_number = ~floats.isnan()
    assert torch.equal(floats.isnan(), every_bfloat16().isnan())
    assert torch.equal(floats.view(torch.int32)[is_number], (PATTERNS << 16)[is_number])


@pytest.mark.parametrize("rest", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
@pytest.mark.parametrize("rounding", [None, "rtne"])
def test_float32_is_rounded_to_nearest_even(rest: int, rounding: str | None) -> None:
    """Below, on and above the middle between any two neighbours; the largest of them round to infinity."""
    floats = ((PATTERNS << 16) | rest).view(torch.float32)
    assert_same_bits(converted(floats, torch.bfloat16, rounding), floats.bfloat16())


def test_rounding_toward_zero_cuts_off() -> None:
    floats = ((PATTERNS << 16) | 0xFFFF).view(torch.float32)
    expected = torch.where(floats.isnan(), torch.nan, every_bfloat16())
    assert_same_bits(converted(floats, torch.bfloat16, "rtz"), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats(dtype: torch.dtype) -> None:
    values = every_bfloat16()
    assert_close(converted(values, dtype), values.to(dtype), rtol=0, atol=0, equal_nan=True)
    assert_same_bits(converted(values.to(dtype), torch.bfloat16), values.to(dtype).bfloat16())


def test_eight_bit_floats() -> None:
    values = torch.arange(256).to(torch.uint8).view(torch.float8_e5m2)
    values = values[values.float().isfinite()][:128]  # triton's own conversion knows neither NaN nor infinity
    assert_same_bits(converted(values, torch.bfloat16), values.bfloat16())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integers(dtype: torch.dtype) -> None:
    integers = torch.arange(256).to(dtype)
    assert_same_bits(converted(integers * 3, torch.bfloat16), (integers * 3).bfloat16())
    assert converted(integers.bfloat16(), dtype).tolist() == integers.tolist()


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "scale": lambda a, _: a * 2.5,
    "add to a half": lambda a, b: (a.float() * 0.5 + b.float()).bfloat16(),
    "negate": lambda a, _: -a,
    "magnitude": lambda a, _: a.abs(),
    "choose": lambda a, b: torch.where(a < b, a, b),
    "choose both": lambda a, b: torch.where((a < b) & (a != 0), a, b),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_arithmetic(operation: str) -> None:
    """Every pattern with another one: numbers of all sizes, subnormal ones, infinities and NaN on both sides."""
    a, b = every_bfloat16(), every_bfloat16()[torch.randperm(1 << 16)]
    result = torch.empty_like(a)
    with np.errstate(all="ignore"):
        _operate[(1,)](a, b, result, operation, 1 << 16)
    expected = OPERATIONS[operation](a, b)
    assert expected.isnan().any()
    assert expected.isinf().any()
    if operation == "negate":  # before triton 3.8 it is 0 − a, so that −(+0) is +0
        result, expected = result + 0, expected + 0
    assert_same_bits(result, expected)


def test_a_sum_in_float32_is_exact() -> None:
    """256 multiples of 1/8 below 16 in size: every partial sum fits."""
    values = torch.randint(-127, 128, (4, 256)).div(8).bfloat16()
    sums = torch.empty(4)
    _sum_rows[(1,)](values, sums, True, 4, 256)
    assert sums.tolist() == values.double().sum(dim=1).tolist()


def test_a_sum_in_bfloat16_is_refused() -> None:
    with pytest.raises(Exception, match=r"reduction.*bfloat16.*float32"):
        _sum_rows[(1,)](torch.ones(4, 256).bfloat16(), torch.empty(4), False, 4, 256)


def test_a_product_of_matrices_adds_in_float32() -> None:
    a, b = (torch.randint(-64, 64, (16, 16)).bfloat16() for _ in range(2))
    product = torch.empty(16, 16)
    _multiply_matrices[(1,)](a, b, product, 16)
    assert product.tolist() == (a.double() @ b.double()).tolist()
