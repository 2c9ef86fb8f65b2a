"""Parameters spread over ranks: PyTorch's `fully_shard` (FSDP2), through Lightning's strategy for it.

Every rank keeps a slice of each parameter, of its gradient and of the optimizer's state. A layer is put together just before
it runs and freed after it, so that every rank must run every layer equally often and in the same order, whatever
its batch holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lightning_apollo.models.video_lmm import ClipLMM, VideoLMM
from lightning_apollo.training.callbacks.checkpoint import WRITE_ERRORS


def build_strategy(name: str) -> str | Strategy:
    """Return what Lightning's Trainer takes for one of STRATEGIES."""
    return ShardedStrategy() if name == "fsdp" else name


class ShardedStrategy(ModelParallelStrategy):
    """Slices over all ranks of all nodes. A checkpoint is a folder to which each rank writes its slices."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=True)
        self.write_error: BaseException | None = None  # of the last checkpoint, see CheckpointWriter

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's "auto" counts the nodes alone
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.write_error = None
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except (CheckpointException, *WRITE_ERRORS) as error:  # the first comes on all ranks, if it comes on one
            self.write_error = error


def shard(model: VideoLMM, mesh: DeviceMesh, precision: str) -> None:
    """Slice the parameters of the model over the ranks of a mesh of one dimension, frozen ones too.

    What is put together at once: each layer of encoder and LLM, the connector, and, for the whole step, what is left: the
    embeddings and the LLM's head. With `precision` bf16-mixed it is put together in bfloat16, and gradients are summed
    over the ranks in float32. So are those of bfloat16 parameters, which have master weights.
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":  # inputs stay as they are: autocast knows which operations want them wider
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    elif any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in (*_layers(model), model.connector, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    if isinstance(model, ClipLMM):
        model.chunk_group = mesh.get_group()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists: the layers, but not what a layer chooses among by its input."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
