"""Launches of billions of elements on a few bytes, to find products that overflow 32 bits."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle


@contextmanager
def far(first_program: int = 0, **elements: int) -> Iterator[None]:
    """Programs count from `first_program` on axis 0, and each named tensor argument starts that many elements after its pointer.

    So a kernel that adds `elements` to the pointer in 64 bits reads and writes its tensor, and one whose sum wraps does not: an
    address outside every argument raises IndexError before it is touched.
    """
    spans: list[tuple[int, int]] = []  # of addresses that belong to a tensor
    shifts: dict[int, int] = {}  # address of a tensor -> bytes
    init_arguments, to_handle = GridExecutor._init_args_hst, interpreter._implicit_cvt
    get_program_id = InterpreterBuilder.create_get_program_id
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note_tensors(executor, args, kwargs):
        host_args, host_kwargs = init_arguments(executor, args, kwargs)
        for name, value in inspect.getcallargs(executor.fn, *host_args, **host_kwargs).items():
            if isinstance(value, torch.Tensor) and value.numel():
                size = value.element_size()
                spans.append((value.data_ptr(), value.data_ptr() + value.numel() * size))
                shifts[value.data_ptr()] = elements.get(name, 0) * size
        return host_args, host_kwargs

    def shifted(value):
        handle = to_handle(value)
        if isinstance(value, torch.Tensor) and shifts.get(value.data_ptr()):
            handle.handle.data = handle.handle.data - np.uint64(shifts[value.data_ptr()])
        return handle

    def program_id(builder, axis):
        handle = get_program_id(builder, axis)
        if axis == 0:
            return TensorHandle(handle.data + np.int32(first_program), handle.dtype)
        return handle

    def checked(access):
        def run(builder, pointers, *rest):
            mask = rest[1] if access is store else rest[0]
            addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)]
            inside = np.zeros(addresses.shape, dtype=bool)
            for start, end in spans:
                inside |= (addresses >= start) & (addresses < end)
            if not inside.all():
                raise IndexError(f"{int((~inside).sum())} of {inside.size} addresses lie outside every tensor")
            return access(builder, pointers, *rest)

        return run

    with (
        mock.patch.object(GridExecutor, "_init_args_hst", note_tensors),
        mock.patch.object(interpreter, "_implicit_cvt", shifted),
        mock.patch.object(InterpreterBuilder, "create_get_program_id", program_id),
        mock.patch.object(InterpreterBuilder, "create_masked_load", checked(load)),
        mock.patch.object(InterpreterBuilder, "create_masked_store", checked(store)),
    ):
        yield
