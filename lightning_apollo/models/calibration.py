"""Connectors fitted to the features that they get and to the embeddings that they stand beside.

Sums are (3, C) float64: how many values a channel had, their sum and the sum of their squares. Sums of several batches, or
of several ranks, are added up.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_apollo.models.connector import PerceiverConnector

_STILL = 1e-6  # a channel whose deviation is this small a share of the largest one stands still
_ROWS = 8192  # widened to float64 at once


def channel_sums(values: Tensor) -> Tensor:
    """(3, C) float64 of values (..., C)."""
    sums = torch.zeros(3, values.shape[-1], dtype=torch.float64, device=values.device)
    for rows in values.detach().reshape(-1, values.shape[-1]).split(_ROWS):
        wide = rows.double()
        sums += torch.stack([torch.full_like(sums[0], len(wide)), wide.sum(dim=0), wide.square().sum(dim=0)])
    return sums


def table_sums(table: Tensor) -> Tensor:
    """(3, C) float64 of a table (rows, C) that may be sliced over ranks, each of which then calls it."""
    if not isinstance(table, DTensor):
        return channel_sums(table)
    sums = channel_sums(table.to_local())
    distributed.all_reduce(sums, group=table.device_mesh.get_group())
    return sums


def mean_and_deviation(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Of sums (3, ...): mean and deviation (...), both 0 where nothing was counted."""
    number, total, squares = sums
    number = number.clamp(min=1.0)
    mean = total / number
    return mean, (squares / number - mean.square()).clamp(min=0.0).sqrt()


def deviation(sums: Tensor) -> float:
    """Of all values of all channels, about their common mean."""
    return float(mean_and_deviation(sums.sum(dim=1))[1])


@torch.no_grad()
def standardize_inputs(connector: nn.Module, sums: Tensor) -> None:
    """Fold (features - mean) / deviation of each channel into the connector's first layer.

    sums: of its features. A channel that stands still is divided by the root mean square of all deviations. A
    convolution's padding stays 0 before the fold.
    """
    layer = first_layer(connector)
    mean, deviations = mean_and_deviation(sums)
    is_still = deviations <= _STILL * deviations.max()
    deviations = torch.where(is_still, deviations.square().mean().sqrt(), deviations)
    assert layer.bias is not None  # of every connector
    weight, bias = (_whole(parameter).double() for parameter in (layer.weight, layer.bias))
    inputs = (-1, *[1] * (weight.ndim - 2))  # a channel of the features is one of the weight's second dimension
    _assign(layer.weight, weight / deviations.view(inputs))
    used = _whole(layer.weight).double()  # as rounded to the weight's type
    _assign(layer.bias, bias - (used * mean.view(inputs)).flatten(1).sum(dim=1))


@torch.no_grad()
def scale_outputs(connector: nn.Module, factor: float) -> None:
    """Multiply what the connector gives."""
    for parameter in _last_parameters(connector):
        _assign(parameter, _whole(parameter).double() * factor)


def first_layer(connector: nn.Module) -> nn.Linear | nn.Conv2d:
    """First layer of the connector with weights for the features."""
    layer = connector.proj if isinstance(connector, PerceiverConnector) else connector.get_submodule("readout.0")
    assert isinstance(layer, nn.Linear | nn.Conv2d)  # of every connector
    return layer


def _last_parameters(connector: nn.Module) -> list[nn.Parameter]:
    """Those that the output is linear in."""
    if isinstance(connector, PerceiverConnector):
        return [connector.resampler.norm.wheight]
    return list(connector.get_submodule("readout.2").parameters())


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()


def _assign(parameter: Tensor, value: Tensor) -> None:
    """Write a whole value, of which each rank keeps its slice where ranks hold slices."""
    value = value.to(parameter.dtype)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.detach().copy_(value)
