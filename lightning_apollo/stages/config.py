"""Stage configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightning_apollo.models.config import COMPONENTS, LoraConfig, ReducerConfig
from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.schedule import check_rates

WEIGHT_UNITS = ("passes", "samples", "tokens")


@dataclass(frozen=True)
class PackingConfig:
    """Micro-batches that are planned from the metadata index: filled up to two limits, of about the same cost on every rank."""

    max_llm_tokens: int  # text and visual tokens of a micro-batch, before reduction
    max_patches: int  # rows of the vision encoder in a micro-batch
    micro_batches: int  # of one optimizer step, over all ranks
    weights: str = (
        "passes"  # what `mixture` counts: passes over a source, or shares of an epoch's samples or LLM tokens
    )

    def __post_init__(self) -> None:
        for name in ("max_llm_tokens", "max_patches", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"packing.{name} must be 1 or more, it is {getattr(self, name)}")
        if self.weights not in WEIGHT_UNITS:
            raise ValueError(f"packing.weights is one of {', '.join(WEIGHT_UNITS)}, not {self.weights!r}")


@dataclass(frozen=True)
class StageConfig:
    """One training phase of a paper. What `trains` does not name is frozen."""

    kind: str  # name of the stage's class: "Stage" or one of stages/videollama3.py and stages/apollo.py
    trains: dict[str, float]  # component (vision, connector, llm) -> peak learning rate
    mixture: dict[str, float]  # source of data.sources -> passes over it in an epoch; fractions are allowed
    image_merge_size: int  # side of the square of patches that becomes one visual token, for images
    video_merge_size: int  # the same for videos; both are 1 where the encoder takes clips
    lora: dict[str, LoraConfig] = field(
        default_factory=dict
    )  # vision, llm -> adapters that train in the place of its weights
    shares: dict[str, float] = field(default_factory=dict)  # text, image, multi_image, video -> share of the samples
    reducer: ReducerConfig = field(default_factory=ReducerConfig)  # which visual tokens reach the LLM
    max_clips: int | None = None  # clips of one video, at most; None leaves it to data.sampling
    epochs: int = 1  # passes over the mixture; not used where max_steps is set
    max_steps: int = -1  # optimizer steps; -1 trains by epochs
    global_batch_size: int = 128  # samples of one optimizer step, over all ranks; not used where packing is set
    micro_batch_size: int = 2  # samples packed into one sequence on one rank; not used where packing is set
    packing: PackingConfig | None = None  # micro-batches of equal cost in the place of equally many samples
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    activation_checkpointing: bool = False  # recompute the layers in the backward pass: less memory, more time
    init: str = "previous"  # start weights: "previous" stage (first stage: the model's own), or a folder or file

    def __post_init__(self) -> None:
        unknown = [name for name in self.trains if name not in COMPONENTS]
        if unknown or not self.trains:
            raise ValueError(f"trains names {unknown or 'nothing'}; it takes a rate for any of {', '.join(COMPONENTS)}")
        for name, rate in self.trains.items():
            if not 0.0 < rate < math.inf:
                raise ValueError(f"trains.{name} is {rate}: a rate is positive; leave the component out to freeze it")
        self._check_lora()
        if any(passes < 0.0 for passes in self.mixture.values()) or sum(self.mixture.values()) <= 0.0:
            raise ValueError(f"mixture needs at least one source and no negative passes, not {dict(self.mixture)}")
        for name in ("image_merge_size", "video_merge_size", "epochs", "global_batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, it is {getattr(self, name)}")
        if self.max_clips is not None and self.max_clips < 1:
            raise ValueError(f"max_clips must be 1 or more, it is {self.max_clips}")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps must be 1 or more, or -1 to train by epochs; it is {self.max_steps}")
        if self.max_steps > 0:  # else the number of steps is known once the data are open
            try:
                check_rates(self.optimizer, self.max_steps)
            except ValueError as error:
                raise ValueError(f"max_steps is {self.max_steps}: {error}") from error
        if self.packing is not None and self.packing.weights != "passes" and self.shares:
            raise ValueError("shares go with packing.weights passes: give one or the other")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of micro_batch_size {self.micro_batch_size}"
            )

    def _check_lora(self) -> None:
        for name in self.lora:
            if name not in COMPONENTS or name == "connector":
                raise ValueError(f"lora.{name}: adapters are for vision and llm; a connector is small and trains whole")
            if name not in self.trains:
                raise ValueError(f"lora.{name}: trains gives no rate for its adapters: add {name} to trains")

    @property
    def is_quantized(self) -> bool:
        """True if a component's frozen weights are held in fewer bits than they are stored in."""
        return any(config.quantize != "none" for config in self.lora.values())

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one optimizer step, over all ranks."""
        if self.packing is not None:
            return self.packing.micro_batches
        return self.global_batch_size // self.micro_batch_size

    def accumulate(self, world_size: int) -> int:
        """Micro-batches that each of `world_size` ranks adds up for one optimizer step."""
        if self.packing is not None:
            if self.packing.micro_batches % world_size:
                raise ValueError(
                    f"packing.micro_batches {self.packing.micro_batches} is no multiple of {world_size} ranks"
                )
            return self.packing.micro_batches // world_size
        samples = self.micro_batch_size * world_size
        if self.global_batch_size % samples:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of {samples}, "
                f"which is micro_batch_size {self.micro_batch_size} on {world_size} ranks"
            )
        return self.global_batch_size // samples
