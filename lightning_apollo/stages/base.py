"""A stage: the LightningModule that trains chosen components of a VideoLMM."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lightning_apollo.errors import RecipeError
from lightning_apollo.models.checkpoint.load import tied_names
from lightning_apollo.models.lora import add_adapters, packed_names
from lightning_apollo.models.video_lmm import LMMOutput, VideoLMM
from lightning_apollo.stages.config import StageConfig
from lightning_apollo.stages.kinds import StageKind
from lightning_apollo.structures import SAMPLE_MODALITIES, PackedBatch
from lightning_apollo.training.consolidate import OPTIMIZED, TIED
from lightning_apollo.training.losses import token_loss_sum
from lightning_apollo.training.master_weights import MasterWeights
from lightning_apollo.training.optim import build_optimizer, build_schedule, parameter_groups
from lightning_apollo.training.sharding import shard

# What Lightning calls in one optimizer step, from top to bottom. Of one hook the callbacks come first, in the order in which
# runs/fit.py makes them, then the stage. With trainer.sentinel, Sentinel notes at most of them how far a rank has come.
#
#   hook                         who              what
#   -- each micro-batch --
#   on_train_batch_start         BlankMediaCheck  first and last step: its losses with media and without
#   on_train_batch_start         ConnectorStart   takes the scale of the start out of the rows behind the first
#   on_train_batch_start         StepTime         the forward pass begins
#   on_train_batch_start         ExactResume      first one after a resume: random states of the checkpoint
#   on_train_batch_start         NonFinite        notes whose samples they are
#   training_step                Stage            loss sum, _tally
#   on_before_backward           ConnectorStart   visual tokens are counted in the forward pass alone
#   on_before_backward           StepTime         the backward pass begins
#   on_before_backward           NonFinite        notes the loss of these samples
#   on_after_backward            StepTime         the optimizer's part begins
#   on_after_backward            Stage            gradients of bfloat16 parameters onto their master weights
#   -- the last micro-batch of a step --
#   on_before_optimizer_step     BlankMediaCheck  first and last step: logs and says what it found
#   on_before_optimizer_step     ConnectorStart   first step: logs the scale of visual tokens beside text
#   on_before_optimizer_step     Stage            _sum_tallies, _mean_over_labels
#   configure_gradient_clipping  Stage            _gradient_norm, _clip, _log_step, _check_step (NonFinite: stop or drop_step)
#   (AdamW steps, the schedule sets the next rates)
#   -- each micro-batch --
#   on_train_batch_end           ConnectorStart   a first step of text alone: again at the next
#   on_train_batch_end           StepTime         end of a step: logs its parts
#   on_train_batch_end           StepProgress     draws the bar
#   on_train_batch_end           StepCheckpoint   saves where it is due
#   on_train_batch_end           FinalRoom        before the last step: room on the disk for the weights
#   on_train_batch_end           Preemption       a signal that came to any rank: saves, and the run ends
#   (loggers write the step's row)

# Takes a stage, the loss sum of a step and its gradient's norm, both over all ranks
StepCheck = Callable[[LightningModule, Tensor, Tensor], None]


class Stage(LightningModule):
    """Train the components that its config names, each at its own rate, and keep the others bit for bit.

    Where the config has `lora` for a component, adapters are put into it here and train in its place.

    The loss of an optimizer step is the sum over labelled tokens divided by their number over all ranks and all
    accumulated micro-batches. `training_step` returns the plain sum; Lightning divides its gradient by the number of
    accumulated batches and DDP or FSDP by that of ranks, and `on_before_optimizer_step` replaces both by the number of labels.

    What it trains of a bfloat16 model has float32 master weights: gradients are summed, scaled and clipped there.
    """

    kind: ClassVar = StageKind()  # what a stage of a paper trains; this one leaves it to the config

    def __init__(self, model: VideoLMM, config: StageConfig) -> None:
        super().__init__()
        self.kind.check(type(self).__name__, config)
        self.model = model
        self.config = config
        for name, component in model.components().items():
            component.requires_grad_(name in config.trains)
        add_adapters(model.components(), config.lora)
        model.set_activation_checkpointing(config.activation_checkpointing)
        self.train()
        # Loss sum, labels, text tokens, visual tokens, kept ones, samples of each modality: float64, a row a micro-batch
        self._tallies: list[Tensor] = []
        self._totals = torch.zeros(5 + len(SAMPLE_MODALITIES), dtype=torch.float64)  # of the last step, over all ranks
        self._seen = torch.zeros(
            len(SAMPLE_MODALITIES), dtype=torch.float64
        )  # samples of each modality since the start
        self._step_ended = 0.0  # seconds on the clock of time.perf_counter
        self.step_checks: list[StepCheck] = []  # look at each step before its update, and may call `drop_step`
        self.start_weights: Mapping[
            str, Tensor
        ] = {}  # float32 values of trained bfloat16 parameters, by name in the model
        self._master_weights: MasterWeights | None = None  # the optimizer, where bfloat16 parameters train

    def configure_model(self) -> None:
        """Slice the model over the ranks where the strategy wants that; Lightning calls it before it asks for optimizers."""
        if self.device_mesh is not None and not isinstance(self.model, FSDPModule):
            shard(self.model, self.device_mesh["data_parallel"], str(self.trainer.precision))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which names are one parameter: in a folder of slices each of them has a copy (see `consolidate`).

        Weights in 4 bit are left out: a stage that resumes makes them again from those that it started from.
        """
        checkpoint[TIED] = sorted(tied_names(self.model))
        checkpoint["num_seen"] = self._seen.cpu()
        checkpoint[OPTIMIZED] = [] if self._master_weights is None else self._optimized_names(self._master_weights)
        if self.config.is_quantized:
            state = checkpoint["state_dict"]
            packed = packed_names(state)
            checkpoint["state_dict"] = {
                name: tensor for name, tensor in state.items() if not any(name.startswith(weight) for weight in packed)
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seen = checkpoint["num_seen"]
        if self.config.is_quantized:
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: own[name] for name in packed_names(own)}

    def on_train_start(self) -> None:
        self._step_ended = time.perf_counter()

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        output = self.model(batch)
        loss_sum = token_loss_sum(output.logits, output.targets)
        self._tally(batch, output, loss_sum)
        return loss_sum

    def on_after_backward(self) -> None:
        if self._master_weights is not None:
            self._master_weights.collect()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._sum_tallies()
        self._mean_over_labels()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """The Trainer is given no clipping of its own: what this takes by its names is the config's."""
        norm = self._gradient_norm()
        self._clip(norm)
        self._log_step(optimizer, norm)
        self._check_step(norm)

    def drop_step(self) -> None:
        """Take the gradients of a step away before its update: the optimizer passes over it."""
        for tensor in self._stepped():
            tensor.grad = None

    def _tally(self, batch: PackedBatch, output: LMMOutput, loss_sum: Tensor) -> None:
        """Notes what a micro-batch adds to its step."""
        counts = (batch.num_labels, output.num_text_tokens, output.num_visual_tokens, output.num_kept_tokens)
        modalities = (batch.modalities.count(modality) for modality in SAMPLE_MODALITIES)
        tally = torch.tensor((0, *counts, *modalities), dtype=torch.float64).to(self.device, non_blocking=True)
        tally[0] = loss_sum.detach()
        self._tallies.append(tally)

    def _sum_tallies(self) -> None:
        """Add up the micro-batches of a step over all ranks."""
        self._totals = self.trainer.strategy.reduce(torch.stack(self._tallies).sum(dim=0), reduce_op="sum")
        self._tallies.clear()

    def _mean_over_labels(self) -> None:
        """Turn the gradient into that of the mean over the labelled tokens of the whole step."""
        num_labels = self._totals[1].clamp(min=1.0)  # a step without any label has a gradient of 0
        scale = self.trainer.world_size * self.trainer.accumulate_grad_batches / num_labels
        for tensor in self._stepped():
            if tensor.grad is not None:
                tensor.grad.mul_(scale)

    def _gradient_norm(self) -> Tensor:
        """Norm of the whole gradient, over the slices of all ranks."""
        norm = get_total_norm([tensor.grad for tensor in self._stepped() if tensor.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _clip(self, norm: Tensor) -> None:
        """Shorten the gradient to the config's norm, where it has one."""
        if self.config.optimizer.gradient_clip > 0.0:
            stepped = [tensor for tensor in self._stepped() if tensor.grad is not None]
            clip_grads_with_norm_(stepped, self.config.optimizer.gradient_clip, norm)

    def _check_step(self, norm: Tensor) -> None:
        """Show the step to those who may drop it or stop the run."""
        for check in self.step_checks:
            check(self, self._totals[0], norm)

    def configure_optimizers(self) -> Any:
        config = self.config.optimizer
        groups = parameter_groups(self.model.components(), self.config.trains, config.weight_decay)
        optimizer = self._with_masters(build_optimizer(groups, config))
        try:
            schedule = build_schedule(optimizer, config, int(self.trainer.estimated_stepping_batches))
        except ValueError as error:  # an epoch has so few rows
            raise RecipeError(f"this stage: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _with_masters(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer itself where no bfloat16 parameter trains."""
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not any(parameter.dtype == torch.bfloat16 for parameter in trained.values()):
            return optimizer
        start = {trained[name]: tensor for name, tensor in self.start_weights.items() if name in trained}
        self.start_weights = {}
        self._master_weights = MasterWeights(optimizer, start)
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self._master_weights.reduce_in_float32(self.trainer.strategy.model)
        return self._master_weights

    def _optimized_names(self, optimizer: Optimizer) -> list[str]:
        """Names in the model of the optimizer's parameters, in the order in which its state dict numbers them."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]

    def _stepped(self) -> list[Tensor]:
        """Parameters that the optimizer steps: master weights in the place of bfloat16 parameters."""
        masters = {} if self._master_weights is None else self._master_weights.masters
        return [masters.get(parameter, parameter) for parameter in self.parameters() if parameter.requires_grad]

    def _log_step(self, optimizer: Optimizer, grad_norm: Tensor) -> None:
        """Log the step over all ranks. The values stay on the device until a logger or the progress bar wants them."""
        loss_sum, labels, text, visual, kept = self._totals[:5]
        self._seen = self._seen.to(self._totals.device) + self._totals[5:]
        now = time.perf_counter()
        self.log("loss", loss_sum / labels.clamp(min=1.0), prog_bar=True)  # nats a labelled token
        metrics = {
            "grad_norm": grad_norm,  # before clipping
            "text_tokens": text,
            "visual_tokens": visual,  # before reduction
            "kept_share": torch.where(visual > 0, kept / visual.clamp(min=1.0), 1.0),
            "tokens_per_second": (text + kept) / (now - self._step_ended),  # through the LLM, all ranks
        }
        for modality, seen in zip(SAMPLE_MODALITIES, self._seen, strict=True):
            metrics[f"share/{modality}"] = seen / self._seen.sum()  # of the samples since the stage began
        for group in optimizer.param_groups:
            metrics[f"lr/{group['name']}"] = torch.tensor(group["lr"], dtype=torch.float64)
        self.log_dict(metrics)
        self._step_ended = now
