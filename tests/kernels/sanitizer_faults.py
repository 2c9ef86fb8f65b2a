"""Tiny kernels with one fault each, and the message that must name it."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 10  # elements of each tensor
BLOCK = 8  # of a program: two cover a tensor


@triton.jit
def copy(x, y_out, n, START: tl.constexpr, BLOCK: tl.constexpr):
    """Sound for START 0. `n` elements of x, from START on."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(y_out + offsets, tl.load(x + offsets + START, mask=mask, other=0.0), mask=mask)


@triton.jit
def copy_without_mask(x, y_out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_out + offsets, tl.load(x + offsets), mask=offsets < n)


@triton.jit
def copy_without_other(x, y_out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(y_out + offsets, tl.load(x + offsets, mask=mask), mask=mask)


@triton.jit
def store_past_the_end(y_out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_out + offsets, offsets, mask=offsets <= n)


@triton.jit
def increment(y_out, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_out + offsets, tl.load(y_out + offsets) + 1)


@triton.jit
def overlap(y_out, BLOCK: tl.constexpr):
    """Programs of BLOCK elements begin BLOCK − 1 apart."""
    offsets = tl.program_id(0) * (BLOCK - 1) + tl.arange(0, BLOCK)
    tl.store(y_out + offsets, offsets)


@triton.jit
def read_of_another(y_out):
    """Program 0 writes what program 1 reads."""
    program = tl.program_id(0)
    tl.store(y_out + program, 1.0)
    tl.store(y_out + program, tl.load(y_out) + 1.0)


@triton.jit
def twice_in_one_store(y_out, BLOCK: tl.constexpr):
    """Of eight lanes the first six in pairs: 0 0 1 1 2 2 3 4."""
    lanes = tl.arange(0, BLOCK)
    tl.store(y_out + tl.where(lanes < 6, lanes // 2, lanes - 3), lanes)


@triton.jit
def store_to(x, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(x + offsets, tl.load(x + offsets) + 1)


@triton.jit
def gather(x, index, y_out, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(y_out + offsets, tl.load(x + tl.load(index + offsets)))


@triton.jit
def count(kinds, counts_out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.atomic_add(counts_out + tl.load(kinds + offsets, mask=mask, other=0), 1, mask=mask)


@triton.jit
def reset_and_count(counts_out, BEFORE: tl.constexpr):
    """Every program resets what all of them count in, before or after it counts."""
    if BEFORE:
        tl.store(counts_out, 0)
    tl.atomic_add(counts_out, 1)
    tl.store(counts_out, 0)


@triton.jit
def take_lock(lock_out, place):
    tl.atomic_cas(lock_out + place, 0, 1)


@triton.jit
def draw_tickets(next_out, tickets_out):
    """No race, but programs get the numbers in the order in which they come."""
    ticket = tl.atomic_add(next_out, 1)
    tl.store(tickets_out + tl.program_id(0), ticket)


@triton.jit
def read_as_words(x, y_out, START: tl.constexpr):
    words = (x + START).to(tl.pointer_type(tl.int32))
    tl.store(y_out + tl.arange(0, 2), tl.load(words + tl.arange(0, 2)))


@triton.jit
def read_as_bytes(x, y_out):
    tl.store(y_out + tl.arange(0, 4), tl.load(x.to(tl.pointer_type(tl.int8)) + tl.arange(0, 4)))


@triton.jit
def load_at(x, offset):
    return tl.load(x + offset)


@triton.jit
def fault_in_a_function(x, y_out):
    tl.store(y_out, load_at(x, 10))


@triton.jit
def wrapped_product(x, y_out, row, width):
    """row · width passes 2³¹ and wraps."""
    tl.store(y_out, tl.load(x + (tl.program_id(0) + row) * width))


def floats(size: int = SIZE) -> Tensor:
    return torch.arange(size, dtype=torch.float32)


def empty(size: int = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(size, dtype=dtype)


def gather_at(index: list[int]) -> None:
    gather[(1,)](floats(), torch.tensor(index), empty(len(index)), len(index))


def reach_into_the_next_argument() -> None:
    both = floats(SIZE + 2)
    gather[(1,)](both[:SIZE], torch.tensor([0, SIZE]), both[SIZE:], 2)


def reach_into_the_argument_before() -> None:
    both = floats(SIZE + 2)
    gather[(1,)](both[2:], torch.tensor([0, -1]), both[:2], 2)


def overwrite() -> None:
    x = floats()
    copy[(2,)](x, x, SIZE, 0, BLOCK)


def overwrite_one_element_of_a_view() -> None:
    x = floats()
    copy[(1,)](x[:6].view(torch.int32), x[5:], 5, 0, BLOCK)


def integers(size: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(size, dtype=dtype)


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "a load past the end by one": (
        lambda: copy[(2,)](floats(), empty(SIZE + 1), SIZE + 1, 0, BLOCK),
        r"^copy, program \(1, 0, 0\): load at x\[10\], out of bounds: it has 10 elements$",
    ),
    "a store past the end by one": (
        lambda: store_past_the_end[(2,)](empty(), SIZE, BLOCK),
        r"store at y_out\[10\], out of bounds",
    ),
    "before the start": (
        lambda: copy[(2,)](floats(), empty(), SIZE, -2, BLOCK),
        r"load at x\[-2, -1\], out of bounds",
    ),
    "into the next argument": (reach_into_the_next_argument, r"load at x\[10\], out of bounds"),
    "into the argument before": (reach_into_the_argument_before, r"load at x\[-1\], out of bounds"),
    "a terabyte away": (lambda: gather_at([0, 1 << 38]), r"load at x\[274877906944\], out of bounds"),
    "where data point": (lambda: gather_at([3, 10, 4, 15, 12, 11, 13, 14]), r"load at x\[10, 11, 12, 13 and 2 more\]"),
    "into a tensor without elements": (
        lambda: copy[(1,)](empty(0), empty(1), 1, 0, 1),
        r"load at x\[0\], out of bounds: it has 0 elements",
    ),
    "a 32-bit product that wraps": (
        lambda: wrapped_product[(1,)](floats(), empty(1), 1 << 20, 1 << 11),
        r"load at x\[-2147483648\], out of bounds",
    ),
    "an atomic past the end": (
        lambda: count[(1,)](torch.tensor([0, 4]), integers(4), 2, 2),
        r"atomic at counts_out\[4\], out of bounds",
    ),
    "a compare-and-swap past the end": (
        lambda: take_lock[(1,)](integers(4), 4),
        r"atomic at lock_out\[4\], out of bounds",
    ),
    "no mask": (
        lambda: copy_without_mask[(2,)](floats(), empty(), SIZE, BLOCK),
        r"load at x\[10, 11, 12, 13 and 2 more\], out of bounds",
    ),
    "no other": (
        lambda: copy_without_other[(2,)](floats(), empty(), SIZE, BLOCK),
        r"program \(0, 0, 0\): masked load of x without other=",
    ),
    "an unwritten tail": (
        lambda: copy[(2,)](floats(), empty(), SIZE - 3, 0, BLOCK),
        r"^copy: 3 of 10 elements of y_out were never written: 7, 8, 9$",
    ),
    "no program at all": (
        lambda: copy[(0,)](floats(), empty(), SIZE, 0, BLOCK),
        "10 of 10 elements of y_out were never written",
    ),
    "a read of an unwritten output": (
        lambda: increment[(1,)](floats(8), BLOCK),
        r"load at y_out\[0, 1, 2, 3 and 4 more\], which nobody has written",
    ),
    "two programs write one element": (
        lambda: overlap[(2,)](empty(15), BLOCK),
        r"program \(1, 0, 0\): store at y_out\[7\], which program \(0, 0, 0\) wrote: a race",
    ),
    "a read of what another program writes": (
        lambda: read_of_another[(2,)](empty(2)),
        r"program \(1, 0, 0\): load at y_out\[0\], which program \(0, 0, 0\) wrote: a race",
    ),
    "a store where another program counts": (
        lambda: reset_and_count[(2,)](integers(1), BEFORE=True),
        r"store at counts_out\[0\], which program \(0, 0, 0\) wrote: a race",
    ),
    "a store after atomics": (
        lambda: reset_and_count[(2,)](integers(1), BEFORE=False),
        r"store at counts_out\[0\], which atomics wrote: a race",
    ),
    "an element twice in one store": (
        lambda: twice_in_one_store[(1,)](empty(5), BLOCK),
        r"store at y_out\[0, 1, 2\], more than once in one store",
    ),
    "a store to an input": (
        lambda: store_to[(1,)](floats(2), 2),
        r"store at x\[0, 1\], but only parameters named \*_out may be written",
    ),
    "in place": (overwrite, "^copy: x and y_out share memory"),
    "in place by one element": (overwrite_one_element_of_a_view, "^copy: x and y_out share memory"),
    "between the elements of an input": (
        lambda: copy[(1,)](floats(20)[::2], empty(8), 8, 0, BLOCK),
        r"load at x\[1, 3, 5, 7\], where its strides leave a gap",
    ),
    "between the elements of an output": (
        lambda: copy[(1,)](floats(8), empty(16)[::2], 8, 0, BLOCK),
        r"store at y_out\[1, 3, 5, 7\], where its strides leave a gap",
    ),
    "words off their alignment": (
        lambda: read_as_words[(1,)](integers(16, torch.int8), empty(2), 2),
        "a load of 4 bytes at x does not cover whole, aligned elements of 1",
    ),
    "a part of an element": (
        lambda: read_as_bytes[(1,)](floats(), empty(4)),
        "a load of 1 bytes at x does not cover whole, aligned elements of 4",
    ),
    "in a function that the kernel calls": (
        lambda: fault_in_a_function[(1,)](floats(), empty(1)),
        r"^fault_in_a_function, program \(0, 0, 0\): load at x\[10\]",
    ),
}
