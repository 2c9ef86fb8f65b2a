"""Sanitizer for Triton kernels in the interpreter: addresses, writers and bytes moved.

    with Sanitizer(shuffle=1) as watch:
        op(x)
    watch.traffic()

Each tensor argument of a launch gets a window of a made-up address space, 2⁴⁸ bytes from the next one. An address therefore says
which argument it was computed from, however far it strays, and real memory is touched only after the check. Addresses are checked
by value, so a place that depends on loaded data is as good as any.

By convention a kernel writes the parameters whose names end in `_out`, all of each, and only reads the others. Not seen: races
between the threads of one program, whether the host has set what atomics update, and 32-bit arithmetic that wraps on larger tensors
only. Tensors inside tuples or descriptors are not known: every access to them is a fault.
"""

import inspect
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self
from unittest import mock

import numpy as np
import triton.language as tl
from torch import Tensor
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

from verification.shadow import Argument, KernelFault, Kind, Launch, Traffic, distinct

WINDOW = 1 << 48  # bytes; a process has no addresses above 2⁴⁷


def is_interpreting() -> bool:
    """True if triton was imported under TRITON_INTERPRET=1, so that kernels run in its interpreter."""
    return isinstance(tl.cdiv, interpreter.InterpretedFunction)


class Sanitizer:
    """Check every kernel launched inside `with`; the first fault raises KernelFault.

    Faults: an address outside the argument that it was computed from; a store to an argument that is only read; a read of an
    output's element that this program has not written; an element written by two programs (atomics may share one), or twice by one
    store; an element of an output that nobody has written at the end of a launch; a misaligned address; a masked load without
    `other`; an output that shares memory with another argument.

    shuffle: seed of the order in which programs run; None: in the interpreter's.
    """

    def __init__(self, shuffle: int | None = None) -> None:
        if not is_interpreting():
            raise RuntimeError(
                "the sanitizer watches Triton's interpreter: set TRITON_INTERPRET=1 before triton is imported"
            )
        self.shuffle = shuffle
        self.kernels: list[str] = []  # the name of each launch
        self._moved: dict[tuple[str, str], Counter[str]] = {}
        self._launch = Launch("no kernel")
        self._patches = ExitStack()

    def traffic(self) -> list[Traffic]:
        """One line per kernel and argument that it touched, summed over launches."""
        return [Traffic(*key, **moved) for key, moved in self._moved.items()]

    def __enter__(self) -> Self:
        executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
        self._patch(executor, "__call__", self._run)
        self._patch(executor, "_init_args_hst", self._name_arguments)
        self._patch(interpreter, "_implicit_cvt", self._hand_over)
        self._patch(builder, "set_grid_dim", self._set_grid)
        self._patch(builder, "set_grid_idx", self._set_program)
        self._patch(TritonSemantic, "load", self._require_other)
        self._patch(builder, "create_masked_load", self._load)
        self._patch(builder, "create_masked_store", self._store)
        self._patch(builder, "create_atomic_rmw", self._update)
        self._patch(builder, "create_atomic_cas", self._compare_and_swap)
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _patch(self, owner: Any, name: str, watcher: Callable[..., Any]) -> None:
        """Call `watcher(original, ...)` in the place of `owner.name(...)`; the receiver of a method comes second."""
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            return watcher(original, *args, **kwargs)

        self._patches.enter_context(mock.patch.object(owner, name, watched))

    def _run(self, original: Callable, executor: Any, *args: Any, **kwargs: Any) -> None:
        """Run one launch and check its end."""
        grid = executor.grid
        executor.grid = lambda meta: self._plan(grid(meta) if callable(grid) else grid)
        fault = None
        try:
            original(executor, *args, **kwargs)
        except InterpreterError as error:  # one is wrapped around the fault by each function that it passes through
            fault = error.__cause__
            while isinstance(fault, InterpreterError):
                fault = fault.__cause__
            if not isinstance(fault, KernelFault):
                raise
        if fault is not None:
            raise fault
        for argument in self._launch.arguments.values():
            if argument.is_output:
                argument.require_complete()
            if argument.moved["distinct_bytes"]:
                self._moved.setdefault((self._launch.kernel, argument.name), Counter()).update(argument.moved)

    def _plan(self, grid: tuple[int, ...]) -> tuple[int]:
        """List the programs to run; the interpreter gets a line of that many for its grid."""
        launch = self._launch
        launch.grid = (*grid, 1, 1)[:3]
        launch.programs = list(itertools.product(*map(range, launch.grid)))
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(launch.programs)
        return (len(launch.programs),)

    def _set_grid(self, original: Callable, builder: Any, *_: int) -> None:
        original(builder, *self._launch.grid)

    def _set_program(self, original: Callable, builder: Any, index: int, *_: int) -> None:
        self._launch.turn = index + 1
        original(builder, *self._launch.programs[index])

    def _name_arguments(self, original: Callable, executor: Any, *args: Any) -> tuple[Any, Any]:
        args_host, kwargs_host = original(executor, *args)
        launch = Launch(executor.fn.__name__)
        values = inspect.getcallargs(executor.fn, *args_host, **kwargs_host)
        tensors = [(name, value) for name, value in values.items() if isinstance(value, Tensor)]
        launch.arguments = {i: Argument(launch, *tensor, i * WINDOW) for i, tensor in enumerate(tensors, 1)}
        for one, other in itertools.combinations(launch.arguments.values(), 2):
            if (one.is_output or other.is_output) and one.shares_memory(other):
                raise KernelFault(
                    f"{launch.kernel}: {one.name} and {other.name} share memory, an output must lie alone"
                )
        self.kernels.append(launch.kernel)
        self._launch = launch
        return args_host, kwargs_host

    def _hand_over(self, original: Callable, value: Any) -> Any:
        """Value of an argument inside the kernel; for a tensor a pointer to its made-up address."""
        converted = original(value)
        for argument in self._launch.arguments.values():
            if argument.tensor is value:
                converted.handle.data = np.array([argument.base], dtype=np.uint64)
        return converted

    def _require_other(self, original: Callable, semantic: Any, pointer: Any, mask: Any, other: Any, *args: Any) -> Any:
        if mask is not None and other is None:
            window = (int(pointer.handle.data.flat[0]) + WINDOW // 2) // WINDOW
            name = self._argument(window).name
            self._launch.fail(f"masked load of {name} without other=, undefined where the mask is off")
        return original(semantic, pointer, mask, other, *args)

    def _load(self, original: Callable, builder: Any, pointers: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        return original(builder, self._checked("load", pointers, mask), mask, *args, **kwargs)

    def _store(self, original: Callable, builder: Any, pointers: Any, value: Any, mask: Any, *args: Any) -> Any:
        return original(builder, self._checked("store", pointers, mask), value, mask, *args)

    def _update(
        self, original: Callable, builder: Any, op: Any, pointers: Any, value: Any, mask: Any, *args: Any
    ) -> Any:
        return original(builder, op, self._checked("atomic", pointers, mask), value, mask, *args)

    def _compare_and_swap(self, original: Callable, builder: Any, pointers: Any, *args: Any) -> Any:
        return original(builder, self._checked("atomic", pointers, None), *args)

    def _argument(self, window: int) -> Argument:
        if window not in self._launch.arguments:
            self._launch.fail("an address that comes from no tensor argument")
        return self._launch.arguments[window]

    def _checked(self, kind: Kind, pointers: Any, mask: Any) -> Any:
        """The pointers as real addresses, after every active lane was checked. Lanes that are masked off point nowhere."""
        addresses = pointers.data.astype(np.int64)
        active = np.broadcast_to(True if mask is None else np.asarray(mask.data).astype(bool), addresses.shape)
        windows = (addresses + WINDOW // 2) // WINDOW
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        real = np.zeros_like(addresses)
        for window in distinct(windows.ravel()):
            here = windows == window
            lanes = here & active
            if lanes.any():
                argument = self._argument(int(window))
                argument.access(kind, addresses[lanes], itemsize)
                real[lanes] = addresses[lanes] - argument.base + argument.tensor.data_ptr()
            if window in self._launch.arguments:
                self._launch.arguments[int(window)].moved["lanes"] += int(np.count_nonzero(here))
        return replace(pointers, data=real.astype(np.uint64))
