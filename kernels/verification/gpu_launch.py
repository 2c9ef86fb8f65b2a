"""The ops' tests on a GPU: the launchers get CPU tensors as in the interpreter, and each launch moves them there and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor
from triton.runtime.jit import JITFunction


@contextmanager
def launches_on_gpu() -> Iterator[None]:
    """Every launch copies its tensors to the GPU, runs compiled, and copies the arguments whose names end in `_out` back."""
    launch = JITFunction.run

    def run(kernel, *args, grid, warmup, **kwargs):
        moved = [value.cuda() if isinstance(value, Tensor) else value for value in args]
        compiled = launch(kernel, *moved, grid=grid, warmup=warmup, **kwargs)
        for name, value, result in zip(kernel.arg_names, args, moved, strict=False):
            if name.endswith("_out"):
                value.copy_(result)
        return compiled

    with mock.patch.object(JITFunction, "run", run):
        yield
