"""Configuration of the Trainer, its callbacks and the optimizer. Imports neither torch nor lightning."""

from __future__ import annotations

from dataclasses import dataclass, field

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
STRATEGIES = ("auto", "ddp", "fsdp")
_MOST_STEPS = 500  # between checkpoints, unless told otherwise


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; the defaults are VideoLLaMA 3's (released training scripts)."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the two running means
    eps: float = 1e-8  # added to the root of the second mean
    weight_decay: float = 0.0  # per unit of rate; never on biases and norms
    warmup_ratio: float = 0.03  # share of the stage's optimizer steps with a rising rate
    gradient_clip: float = 0.0  # largest global norm of the gradient; 0 switches clipping off

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"optimizer.betas must be two numbers in [0, 1), not {self.betas}")
        if not 0.0 <= self.warmup_ratio < 1.0:
            raise ValueError(f"optimizer.warmup_ratio must be in [0, 1), not {self.warmup_ratio}")
        for name in ("eps", "weight_decay", "gradient_clip"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"optimizer.{name} must not be negative, it is {getattr(self, name)}")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoint interval and number of kept checkpoints."""

    every_n_steps: int | None = None  # optimizer steps; None: a quarter of the stage, 500 at most
    keep: int = 2  # the last so many; the older ones are removed

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{name} must be 1 or more, it is {value}")

    def interval(self, num_steps: float) -> int:
        """Steps between checkpoints of a stage of `num_steps`: unless told otherwise, three come before its last step."""
        return self.every_n_steps or int(max(1, min(_MOST_STEPS, num_steps // 4)))


@dataclass(frozen=True)
class PreemptionConfig:
    """Action beside saving when SLURM tells a run to stop."""

    requeue: bool = True  # puts the job back into the queue after SIGUSR1


@dataclass(frozen=True)
class NonFiniteConfig:
    """Policy for an optimizer step whose loss or gradient is not finite."""

    action: str = "stop"  # or "skip": the update is left out, and said
    max_skips: int = 20  # steps of a stage that may be left out; one more stops the run

    def __post_init__(self) -> None:
        if self.action not in ("stop", "skip"):
            raise ValueError(f"non_finite.action is stop or skip, not {self.action!r}")
        if self.max_skips < 0:
            raise ValueError(f"non_finite.max_skips must not be negative, it is {self.max_skips}")


@dataclass(frozen=True)
class TrainerConfig:
    """Trainer settings of every stage."""

    accelerator: str = "auto"  # auto | cpu | gpu; or cuda, mps: this kind of GPU
    devices: str = "auto"  # number of devices on each node; auto: all of them
    num_nodes: int = 1
    strategy: str = "auto"  # auto | ddp: every rank holds the whole model | fsdp: each holds a slice of it
    precision: str = "32-true"  # 32-true | bf16-mixed | bf16-true | 64-true
    log_every_n_steps: int = 1  # optimizer steps
    threads: int | None = None  # CPU threads of torch; None: torch decides
    progress_bar: bool = True
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # where `fit --resume` starts
    preemption: PreemptionConfig = field(default_factory=PreemptionConfig)  # what SIGUSR1 and SIGTERM do
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)  # a step whose loss is not a number
    blank_media_check: bool = True  # at the first and last step of a stage, say whether the answers need the media
    sentinel: bool = False  # report within 10 s which rank the others wait for, and end a run that is stuck

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator is one of {', '.join(ACCELERATORS)}, not {self.accelerator!r}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}, not {self.strategy!r}")
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices)):
            raise ValueError(f"devices is a number from 1 on or auto, not {self.devices!r}")
        if self.num_nodes < 1 or self.log_every_n_steps < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("num_nodes, log_every_n_steps and threads are at least 1")
