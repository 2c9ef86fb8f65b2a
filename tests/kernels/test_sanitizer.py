"""The sanitizer on tiny kernels: planted faults, sound kernels and bytes counted by hand."""

from unittest import mock

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

from tests.kernels.sanitizer_faults import (
    BLOCK,
    FAULTS,
    SIZE,
    copy,
    count,
    draw_tickets,
    empty,
    floats,
    overlap,
    overwrite,
    read_as_words,
)
from verification import sanitizer
from verification.sanitizer import Sanitizer
from verification.shadow import KernelFault


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str) -> None:
    launch, message = FAULTS[fault]
    with Sanitizer(), pytest.raises(KernelFault, match=message):
        launch()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sound_kernel_passes_in_any_order(seed: int) -> None:
    x, y = floats(), empty()
    with Sanitizer(shuffle=seed) as watch:
        copy[lambda meta: (triton.cdiv(SIZE, meta["BLOCK"]),)](x, y, n=SIZE, START=0, BLOCK=2)
    assert y.tolist() == x.tolist()
    assert watch.kernels == ["copy"]


def test_a_fault_is_found_whichever_program_comes_first() -> None:
    for seed in range(4):
        with Sanitizer(shuffle=seed), pytest.raises(KernelFault, match=r"store at y_out\[7\].*race"):
            overlap[(2,)](empty(15), BLOCK)


def test_shuffling_shows_a_result_that_depends_on_the_order() -> None:
    drawn = []
    for seed in (1, 2):
        tickets = empty(16, torch.int32)
        with Sanitizer(shuffle=seed):
            draw_tickets[(16,)](torch.zeros(1, dtype=torch.int32), tickets)
        assert tickets.sort().values.tolist() == list(range(16))
        drawn.append(tickets.tolist())
    assert drawn[0] != drawn[1]


@triton.jit
def _name_programs(y_out):
    """(X, Y, Z) of the grid, each program at its own place."""
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = (x * tl.num_programs(1) + y) * tl.num_programs(2) + z
    tl.store(y_out + place, x * 100 + y * 10 + z)


def test_every_program_of_a_grid_runs_once_as_itself() -> None:
    y = empty(24, torch.int32)
    with Sanitizer(shuffle=3):
        _name_programs[(2, 3, 4)](y)
    assert y.tolist() == [x * 100 + y * 10 + z for x in range(2) for y in range(3) for z in range(4)]


@triton.jit
def _choose(x, y, n, z_out, BLOCK: tl.constexpr):
    """Even elements of x and odd ones of y, and a masked load of one element, whose `other` the interpreter takes for none."""
    offsets = tl.arange(0, BLOCK)
    first = tl.load(x + n, mask=n < 0, other=0.0)
    chosen = tl.load(tl.where(offsets % 2 == 0, x, y) + offsets)
    tl.store(z_out + offsets, chosen + first)


@triton.jit
def _split(x_out, y_out):
    """Two columns of one tensor (4, 2), by two programs."""
    places = tl.program_id(0) * 2 + tl.arange(0, 2)
    tl.store(x_out + places * 2, places)
    tl.store(y_out + places * 2, -places)


def test_what_is_allowed() -> None:
    """Views of one storage that are only read, masked-off lanes anywhere, no elements, outputs in two columns, shared counters."""
    x = floats(8).bfloat16()
    z = empty(8, torch.bfloat16)
    counts = torch.zeros(3, dtype=torch.int32)
    columns = empty(8).view(4, 2)
    storage = floats(10)
    with Sanitizer(shuffle=0):
        _choose[(1,)](x, x.flip(0), SIZE, z, BLOCK)
        _choose[(1,)](x.view(torch.int16), x[:8].view(torch.int16), SIZE, empty(8, torch.int16), BLOCK)
        copy[(2,)](empty(0), empty(0), 0, 0, BLOCK)
        copy[(1,)](storage[:4], storage[6:], 4, 0, BLOCK)
        _split[(2,)](columns[:, 0], columns[:, 1])
        count[(3,)](torch.tensor([0, 1, 1, 2, 2]), counts, 5, 2)
    assert z.tolist() == [0, 6, 2, 4, 4, 2, 6, 0]
    assert columns.tolist() == [[0, 0], [1, -1], [2, -2], [3, -3]]
    assert counts.tolist() == [1, 2, 2]
    assert storage.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


def test_it_refuses_to_watch_compiled_kernels() -> None:
    with (
        mock.patch.object(sanitizer, "is_interpreting", return_value=False),
        pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"),
    ):
        Sanitizer()


def test_the_interpreter_is_as_before_afterwards() -> None:
    def patched() -> list[object]:
        builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
        return [builder.create_masked_load, builder.set_grid_idx, executor.__call__, interpreter._implicit_cvt]

    before = patched()
    with Sanitizer():
        assert all(now != then for now, then in zip(patched(), before, strict=True))
    assert patched() == before
    with pytest.raises(KernelFault, match="share memory"), Sanitizer():
        overwrite()
    assert patched() == before
    x = floats()
    copy[(2,)](x, x, SIZE, 0, BLOCK)
    assert x.tolist() == floats().tolist()


@triton.jit
def _raise(y_out):
    tl.static_assert(False, "not a matter of memory")


def test_other_errors_of_a_kernel_pass_through() -> None:
    with Sanitizer(), pytest.raises(InterpreterError, match="memory"):
        _raise[(1,)](empty(1))


@triton.jit
def _read_every(x, y_out, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_out + offsets, tl.load(x + offsets * STRIDE))


@pytest.mark.parametrize("stride", [1, 2, 8, 16])
def test_traffic_by_hand(stride: int) -> None:
    """64 float32 in two programs: 8 sectors side by side, one sector each from a stride of 8 on."""
    with Sanitizer(shuffle=1) as watch:
        _read_every[(2,)](floats(64 * stride), empty(64), stride, 32)
    read, written = watch.traffic()
    assert (read.kernel, read.argument, written.argument) == ("_read_every", "x", "y_out")
    assert (read.requested_bytes, read.distinct_bytes, read.stored_bytes) == (256, 256, 0)
    assert read.loaded_bytes == 256 * min(stride, 8)
    assert read.ratio == float(min(stride, 8))
    assert (written.requested_bytes, written.loaded_bytes, written.stored_bytes, written.ratio) == (256, 0, 256, 1.0)
    assert read.active_share == written.active_share == 1.0


def test_traffic_counts_what_is_asked_for_again_masked_off_and_misplaced() -> None:
    """Lanes 0-7 of 16 read x[1:9], 36 bytes over two sectors, by each of three programs; then the same kernel once more."""
    x = floats(9)[1:]
    with Sanitizer() as watch:
        for _ in range(2):
            _read_by_all[(3,)](x, empty(3), 8, 16)
    read, written = watch.traffic()
    assert (read.requested_bytes, read.loaded_bytes, read.distinct_bytes) == (2 * 3 * 32, 2 * 3 * 64, 2 * 32)
    assert (read.lanes, read.active_lanes, read.active_share, read.ratio) == (96, 48, 0.5, 6.0)
    assert (written.requested_bytes, written.stored_bytes, written.ratio) == (24, 2 * 3 * 32, 8.0)


@triton.jit
def _read_by_all(x, y_out, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(y_out + tl.program_id(0), tl.sum(tl.load(x + offsets, mask=offsets < n, other=0.0)))


def test_words_read_from_bytes_are_counted_once() -> None:
    x, y = torch.arange(8, dtype=torch.uint8), empty(2, torch.int32)
    with Sanitizer() as watch:
        read_as_words[(1,)](x, y, 0)
    assert y.tolist() == x.view(torch.int32).tolist()
    assert (watch.traffic()[0].requested_bytes, watch.traffic()[0].distinct_bytes) == (8, 8)
