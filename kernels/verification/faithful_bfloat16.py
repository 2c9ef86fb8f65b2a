"""Faithful bfloat16 in Triton's interpreter: arithmetic in float32, results rounded to nearest even.

The interpreter keeps bfloat16 as its bits in uint16, adds and compares them as integers, and cuts float32 off instead of rounding.
Source: triton/runtime/interpreter.py, `InterpreterBuilder`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceScanOpInterface, TensorHandle

QUIET_NAN = 0x7FC0


def to_bits(values: np.ndarray, toward_zero: bool = False) -> np.ndarray:
    """The bfloat16 nearest to each float32 as uint16, ties to even, or the next one toward zero; NaN stays NaN."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    is_odd = (bits >> 16) & 1
    kept = (bits if toward_zero else bits + 0x7FFF + is_odd) >> 16
    return np.where(np.isnan(values), QUIET_NAN, kept).astype(np.uint16)


def to_floats(bits: np.ndarray) -> np.ndarray:
    """The float32 of the same value, for bfloat16 as uint16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@functools.cache
def install() -> None:
    """Patch the interpreter of this process, once. Compiled kernels do not pass through it."""
    builder = InterpreterBuilder
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _float_to_float(builder.create_fp_to_fp)
    builder.get_bf16 = lambda self, value: _rounded(self.get_fp32(value))  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("unary_op", "binary_op", "create_fma", "create_dot"):
        setattr(builder, name, _in_float32(getattr(builder, name)))
    ReduceScanOpInterface.check_tensor = _refusing_bfloat16(ReduceScanOpInterface.check_tensor)


def _is_bfloat16(handle: Any) -> bool:
    return isinstance(handle, TensorHandle) and handle.dtype.scalar == tl.bfloat16


def _widened(handle: Any) -> Any:
    return TensorHandle(to_floats(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _rounded(handle: TensorHandle, toward_zero: bool = False) -> TensorHandle:
    return TensorHandle(to_bits(handle.data.astype(np.float32), toward_zero), tl.bfloat16)


def _cast(original: Callable) -> Callable:
    def cast_impl(self: InterpreterBuilder, source: TensorHandle, target: tl.dtype) -> TensorHandle:
        if target.scalar == tl.bfloat16:
            return source if _is_bfloat16(source) else _rounded(source)
        return original(self, _widened(source), target)

    return cast_impl


def _float_to_float(original: Callable) -> Callable:
    """Replacement of `.to(tl.bfloat16, fp_downcast_rounding=...)`: "rtne" or "rtz"."""

    def create_fp_to_fp(
        self: InterpreterBuilder, source: TensorHandle, target: tl.dtype, rounding: Any
    ) -> TensorHandle:
        if target.scalar == tl.bfloat16 and source.data.dtype.kind == "f":  # 8-bit floats are kept as bits too
            return _rounded(source, toward_zero=rounding == interpreter._ir.ROUNDING_MODE.RTZ)
        return original(self, source, target, rounding)

    return create_fp_to_fp


def _in_float32(original: Callable) -> Callable:
    """The operation on float32. Its last operand has the type of the result: a product of matrices may add to float32."""

    def operate(self: InterpreterBuilder, *args: Any) -> TensorHandle:
        handles = [arg for arg in args if isinstance(arg, TensorHandle)]
        if not any(map(_is_bfloat16, handles)):
            return original(self, *args)
        result = original(self, *map(_widened, args))
        is_truth = result.data.dtype == np.bool_  # of a comparison
        return _rounded(result) if _is_bfloat16(handles[-1]) and not is_truth else result

    return operate


def _refusing_bfloat16(original: Callable) -> Callable:
    """Sums and scans take numpy's short cuts on the bits, and in bfloat16 they would depend on the order of the terms."""

    def check_tensor(self: ReduceScanOpInterface, tensors: tuple[tl.tensor, ...]) -> None:
        if any(_is_bfloat16(tensor.handle) for tensor in tensors):
            raise TypeError("a reduction or scan of bfloat16: convert to float32 first")
        original(self, tensors)

    return check_tensor
