"""Float32 master weights of bfloat16 parameters.

bfloat16 has 8 significant bits: next to a weight of 0.02, steps below 0.00006 round to nothing. So the optimizer steps a float32
copy of each trained bfloat16 parameter, with gradients that are summed in float32 over the micro-batches of a step and over
the ranks, and each new value is rounded into the parameter (arXiv 1710.03740 §3.1). The copy is part of the optimizer's
state and of its checkpoints.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

MASTER = "master"  # key of the copy in the state of its parameter


class MasterWeights(Optimizer):
    """Any optimizer, made to step float32 copies of its bfloat16 parameters; those of other types it steps as before.

    `param_groups` hold the model's parameters, so that schedules and `torch.distributed.checkpoint` find them; `optimizer` holds
    the copies. `collect` is called after each backward pass and moves its gradients to the copies: those are what to scale
    and clip. `start` has float32 values that parameters were rounded from; without one, a copy begins as its parameter.
    """

    def __init__(self, optimizer: Optimizer, start: Mapping[nn.Parameter, Tensor] | None = None) -> None:
        groups = [{**group} for group in optimizer.param_groups]
        self.optimizer = optimizer
        self.masters: dict[nn.Parameter, Tensor] = {
            parameter: _master(parameter, (start or {}).get(parameter))
            for group in groups
            for parameter in group["params"]
            if parameter.dtype == torch.bfloat16
        }
        for group in optimizer.param_groups:
            group["params"] = [self.masters.get(parameter, parameter) for parameter in group["params"]]
        for parameter, master in self.masters.items():
            if parameter in optimizer.state:  # of an optimizer that does not wait for the first step
                optimizer.state[master] = _widened(optimizer.state.pop(parameter))
        super().__init__(groups, optimizer.defaults)
        self.state = optimizer.state
        self._is_reduced = False  # the copies' gradients hold the last backward pass already, as mean over the ranks

    def collect(self) -> None:
        """Add the parameters' gradients to those of the copies and free them."""
        for parameter, master in self.masters.items():
            if parameter.grad is not None and not self._is_reduced:
                _add_gradient(master, parameter.grad)
            parameter.grad = None
        self._is_reduced = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.collect()
        for group, inner in zip(self.param_groups, self.optimizer.param_groups, strict=True):
            inner.update(_settings(group))  # the rates of a schedule
        self.optimizer.step()
        self._round_into_parameters()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state dict, with the copy as one more value of a parameter's state."""
        packed = self.optimizer.state_dict()
        groups = [
            {**_settings(group), "params": inner["params"]}
            for group, inner in zip(self.param_groups, packed["param_groups"], strict=True)
        ]
        state = {}
        for key, parameter in _keyed(groups, self.param_groups):
            values = packed["state"].get(key, {})
            master = self.masters.get(parameter)
            if values or master is not None:
                state[key] = values if master is None else {**values, MASTER: master}
        return {"state": state, "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the copies bit for bit, and round them into the parameters.

        Where the state has none, as that of a run of a version without them, they begin as the parameters.
        """
        saved = {key: dict(values) for key, values in state_dict["state"].items()}
        for key, parameter in _keyed(state_dict["param_groups"], self.param_groups):
            if parameter in self.masters:
                self.masters[parameter].copy_(saved.get(key, {}).pop(MASTER, parameter))
        self.optimizer.load_state_dict({"state": saved, "param_groups": state_dict["param_groups"]})
        self.state = self.optimizer.state
        for group, inner in zip(self.param_groups, self.optimizer.param_groups, strict=True):
            group.update(_settings(inner))
        self._round_into_parameters()

    def reduce_in_float32(self, model: DistributedDataParallel) -> None:
        """Let DDP exchange the copies' gradients, once a step, in the place of the parameters'."""
        model.register_comm_hook(self, _mean_over_ranks)

    def _round_into_parameters(self) -> None:
        for parameter, master in self.masters.items():
            parameter.copy_(master)


def cast(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast a model in place; return the float32 values that a cast to bfloat16 rounds, by name, and else nothing."""
    is_rounded = dtype == torch.bfloat16
    before = {name: parameter.detach() for name, parameter in model.named_parameters() if is_rounded}
    model.to(dtype)
    return before


def named_masters(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Float32 copies of a model's parameters, by name; slices where ranks hold slices."""
    wrappers = [optimizer for optimizer in optimizers if isinstance(optimizer, MasterWeights)]
    masters = {parameter: master for wrapper in wrappers for parameter, master in wrapper.masters.items()}
    return {name: masters[parameter] for name, parameter in model.named_parameters() if parameter in masters}


def _master(parameter: nn.Parameter, start: Tensor | None) -> Tensor:
    """A float32 copy where the parameter lies: on its device, or of its slice."""
    if start is None:
        return parameter.detach().to(torch.float32).requires_grad_()
    wide = start.to(parameter.device, torch.float32)
    if isinstance(parameter, DTensor):  # every rank has all of `start`: none needs to send it
        wide = distribute_tensor(wide, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return wide.detach().requires_grad_()


def _add_gradient(master: Tensor, gradient: Tensor) -> None:
    if master.grad is None:
        master.grad = gradient.to(torch.float32)
    else:
        master.grad.add_(gradient)


def _widened(state: Mapping[str, Any]) -> dict[str, Any]:
    def widen(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

    return {key: widen(value) for key, value in state.items()}


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _keyed(
    saved: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Any, nn.Parameter]]:
    """Keys of a state dict, numbers or names, and the parameters that they stand for."""
    for names, group in zip(saved, groups, strict=True):
        yield from zip(names["params"], group["params"], strict=True)


def _mean_over_ranks(
    optimizer: MasterWeights,
    bucket: distributed.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> Future[Tensor]:
    """DDP's communication hook: means of the gradients of a whole step, summed in float32.

    DDP calls it for each bucket of gradients in the backward pass of a step's last micro-batch. The copies have those of the
    micro-batches before it; float32 parameters have them in their own.
    """
    wide = bucket.buffer().float()
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
        master = optimizer.masters.get(parameter)  # pyright: ignore[reportArgumentType]
        if master is None:
            continue
        view = wide.as_strided(gradient.size(), gradient.stride(), gradient.storage_offset())
        if master.grad is not None:
            view.add_(master.grad)
        master.grad = view
        optimizer._is_reduced = True
    wide.div_(distributed.get_world_size())
    future = distributed.all_reduce(wide, async_op=True).get_future()  # pyright: ignore[reportOptionalMemberAccess]
    return future.then(lambda done: done.value()[0])
