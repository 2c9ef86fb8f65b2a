"""Time of every step by part, and the bottleneck of a stage at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils.hooks import RemovableHandle

from lightning_apollo.models.flops import BatchSizes
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.timing.bottleneck import (
    BACKWARD,
    COMMUNICATION,
    CONNECTOR,
    LLM,
    OPTIMIZER,
    OTHER,
    PARTS,
    TRANSFER,
    VISION,
    WAIT,
    Account,
    DataSeconds,
    bottleneck,
)
from lightning_apollo.training.timing.peak_flops import peak_flops
from lightning_apollo.training.timing.timeline import Mark, Timeline, part_seconds


class StepTime(Callback):
    """Log `time/...` of every optimizer step, in seconds, and say the bottleneck when training ends.

    A step runs from the end of the one before it to its own; all its micro-batches are added up. Its parts do not
    overlap and sum to `time/step`:

    wait           for the loader; with no loader process it is the making of the batch
    transfer       of the batch to the device
    vision         packing and choosing patches, and the encoder
    connector
    llm            splicing, layers, head and loss
    backward
    communication  with more than one rank: what DDP does before the forward pass (it spreads buffers), and from the last
                   gradient of this rank to the end of the backward pass. All-reduces that hide behind the backward pass
                   cost no time and do not count; waiting for a slower rank does. FSDP gathers inside layers, forward
                   and backward, and that stays in those parts.
    optimizer      scaling, clipping and the update
    other          what no part claims: schedules, callbacks, logging, checkpoints

    `time/decode` lies apart: seconds of decoding inside the loader that the step's batches cost, in `wait` without
    loader processes, beside the rest of the step with them. Rank 0's numbers are logged; the bottleneck is asked of all ranks.

    On CUDA the times are those of the device, read one step later, so that no step waits for them; the row of a step
    then has the times of the one before it. `mfu` is there where the peak of the device is known, by FLOPs that the
    mathematics needs (models/flops.py). The first step (warm-up, start of loader processes) does not count for the bottleneck.
    """

    def __init__(
        self,
        data_seconds: Callable[[], DataSeconds],
        flops: Callable[[BatchSizes], float],
        dtype: torch.dtype,
        say: Callable[[str], None],
    ) -> None:
        """data_seconds: the loader's account up to now; flops: of a micro-batch, forward and backward; dtype: of
        matrix products; say: where the line about the bottleneck goes, on rank 0."""
        self.profiler = LoopProfiler(self)
        self.timeline: Timeline | None = None  # while training
        self._data_seconds, self._flops, self._dtype, self._say = data_seconds, flops, dtype, say
        self._hooks: list[RemovableHandle] = []
        self._step = _Step()
        self._waiting: deque[_Step] = deque()  # steps whose times are not read yet
        self._lag = 0  # steps that pass before times are read
        self._total = _Step()
        self._num_read = 0  # steps
        self._step_number = 0  # optimizer steps so far
        self._data_before = DataSeconds(0.0, 0.0)  # the loader's account when the step began
        self._sizes: BatchSizes | None = None  # of the micro-batch, before reduction, where FLOPs are counted
        self._is_forward = False
        self._peak: float | None = None  # FLOPs a second

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = pl_module.device
        self._lag = 1 if device.type == "cuda" else 0
        self._peak = peak_flops(device, self._dtype)
        model = pl_module.get_submodule("model")
        assert isinstance(model, VideoLMM)  # what every stage trains
        self._hook(model, has_reducer=trainer.world_size > 1 and isinstance(trainer.strategy, DDPStrategy))
        self._data_before = self._data_seconds()
        self._step_number = trainer.global_step
        self.timeline = Timeline(device)
        self.timeline.enter(OTHER)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        self.enter(COMMUNICATION if trainer.world_size > 1 else OTHER)
        self._is_forward = True
        self._step.num_samples += len(batch)
        self._sizes = None if self._peak is None else BatchSizes.of(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._is_forward = False
        self.enter(BACKWARD)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.enter(OPTIMIZER)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        self.enter(OTHER)
        if trainer.global_step == self._step_number or self.timeline is None:
            return  # a micro-batch that is only added to the next ones
        self._step_number = trainer.global_step
        data = self._data_seconds()
        self._step.marks = self.timeline.cut()
        self._step.data = DataSeconds(*(now - then for now, then in zip(data, self._data_before, strict=True)))
        self._data_before = data
        self._waiting.append(self._step)
        self._step = _Step()
        while len(self._waiting) > self._lag:
            metrics = self._read(self._waiting.popleft())
            # Lightning sets this attribute from another class, where no type checker sees it
            every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
            if trainer.global_step % every == 0:  # logging is the most expensive part of measuring
                pl_module.log_dict(metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unhook()
        while self._waiting:
            self._read(self._waiting.popleft())
        if self._num_read == 0:
            return
        row = torch.tensor(self._total.row(), dtype=torch.float64, device=pl_module.device)
        rows = trainer.strategy.all_gather(row) if trainer.world_size > 1 else row[None]
        if trainer.is_global_zero:
            self._say(bottleneck([_account(row) for row in rows.tolist()], self._peak))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unhook()

    def enter(self, part: str) -> None:
        """Time belongs to `part` from now on."""
        if self.timeline is not None:
            self.timeline.enter(part)

    def _hook(self, model: VideoLMM, has_reducer: bool) -> None:
        pre_hooks = (
            (model, self._enters(VISION)),
            (model.vision_encoder, self._enters(VISION)),  # again, for every chunk of clips
            (model.connector, self._enters(CONNECTOR)),
            (model.llm.base_model, self._count_tokens),
        )
        # before other hooks, which may gather weights: that belongs to the component, too
        self._hooks = [
            module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True) for module, hook in pre_hooks
        ]
        self._hooks.append(model.connector.register_forward_hook(self._enters(LLM)))
        if has_reducer:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self._hooks.append(register_multi_grad_hook(trained, self._all_gradients_are_there))

    def _enters(self, part: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if self._is_forward:  # checkpointed modules run again in the backward pass
                self.enter(part)

        return hook

    def _count_tokens(self, module: nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if not self._is_forward:
            return
        self._step.num_tokens += inputs["inputs_embeds"].shape[1]
        if self._sizes is not None:
            cu_seqlens = inputs["cu_seqlens"].to("cpu", non_blocking=True)  # there before the marks of this step are
            self._step.batches.append((self._sizes, cu_seqlens))

    def _all_gradients_are_there(self, _: object) -> None:
        self.enter(COMMUNICATION)

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.timeline = None

    def _read(self, step: _Step) -> dict[str, float]:
        """Logged values of a step; adds it to the whole."""
        step.seconds |= part_seconds(step.marks)
        step.flops = sum(self._flops(sizes.reduced(ends.diff().tolist())) for sizes, ends in step.batches)
        self._total = step if self._num_read <= 1 else self._total + step  # the second takes the place of the first
        self._num_read += 1
        seconds = sum(step.seconds.values())
        metrics = {f"time/{part}": step.seconds[part] for part in PARTS}
        metrics |= {"time/decode": step.data.decode, "time/step": seconds}
        if self._peak is not None:
            metrics["mfu"] = step.flops / (seconds * self._peak)
        return metrics


class LoopProfiler(Profiler):
    """Tell a StepTime of the two moments that Lightning gives to no callback: fetching a batch and moving it.

    Lightning's loop calls a profiler around each of its actions. Give it to the Trainer with the callback.
    """

    def __init__(self, step_time: StepTime) -> None:
        super().__init__()
        self._step_time = step_time

    def start(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self._step_time.enter(WAIT)
        elif action_name.endswith(".batch_to_device"):
            self._step_time.enter(TRANSFER)

    def stop(self, action_name: str) -> None:
        if action_name.endswith((".train_dataloader_next", ".batch_to_device")):
            self._step_time.enter(OTHER)


@dataclass
class _Step:
    """One optimizer step of one rank, or the sum of several."""

    marks: list[Mark] = field(default_factory=list)
    batches: list[tuple[BatchSizes, Tensor]] = field(default_factory=list)  # and where their samples end, (S+1,)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    data: DataSeconds = field(default_factory=lambda: DataSeconds(0.0, 0.0))
    num_tokens: int = 0
    num_samples: int = 0
    flops: float = 0.0

    def __add__(self, other: _Step) -> _Step:
        return _Step(
            seconds={part: self.seconds[part] + other.seconds[part] for part in PARTS},
            data=DataSeconds(self.data.prepare + other.data.prepare, self.data.decode + other.data.decode),
            num_tokens=self.num_tokens + other.num_tokens,
            num_samples=self.num_samples + other.num_samples,
            flops=self.flops + other.flops,
        )

    def row(self) -> list[float]:
        """As numbers that ranks can exchange; `_account` reads them."""
        return [*(self.seconds[part] for part in PARTS), *self.data, self.num_tokens, self.num_samples, self.flops]


def _account(row: list[float]) -> Account:
    seconds, (prepare, decode, *rest) = row[: len(PARTS)], row[len(PARTS) :]
    return Account(dict(zip(PARTS, seconds, strict=True)), DataSeconds(prepare, decode), *rest)
