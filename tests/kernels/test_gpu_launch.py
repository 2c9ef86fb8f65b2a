"""Moving a launch to a GPU and back, with clones in place of a GPU's copies."""

from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from verification.gpu_launch import launches_on_gpu


def test_outputs_come_back_and_inputs_stay() -> None:
    x, y_out = torch.arange(3.0), torch.full((3,), float("nan"))
    kernel = SimpleNamespace(arg_names=["x", "y_out", "n"])

    def launch(_, x: Tensor, y_out: Tensor, n: int, *, grid: tuple[int], warmup: bool, BLOCK: int) -> str:
        assert (grid, warmup, n, BLOCK) == ((1,), False, 3, 4)
        y_out.copy_(x.add_(1))
        return "compiled"

    with (
        mock.patch.object(JITFunction, "run", launch),
        mock.patch.object(Tensor, "cuda", Tensor.clone),
        launches_on_gpu(),
    ):
        assert JITFunction.run(kernel, x, y_out, 3, grid=(1,), warmup=False, BLOCK=4) == "compiled"
    assert y_out.tolist() == [1, 2, 3]
    assert x.tolist() == [0, 1, 2]
