"""Configuration of the data of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_apollo.data.annotations.keys import IGNORE, REFUSE
from lightning_apollo.data.media.config import FrameCacheConfig, PictureConfig, SupervisionConfig
from lightning_apollo.data.plan.config import CostConfig
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.shapes.dataset import ShapesConfig
from lightning_apollo.data.storage.protocols import StorageConfig, check_form, shown
from lightning_apollo.structures import SAMPLE_MODALITIES


@dataclass(frozen=True)
class SourceConfig:
    """A named source of conversations, the unit of a mixture."""

    manifests: list[str]  # files or patterns of them, relative to the working directory or else to `root`, or URLs
    root: str = "."  # what media paths start from and may not leave: a folder, s3://BUCKET/PREFIX etc. or shards/*.tar
    modality: str | None = None  # text | image | multi_image | video: what its rows show; a stage's `shares` needs it

    def __post_init__(self) -> None:
        if self.modality is not None and self.modality not in SAMPLE_MODALITIES:
            raise ValueError(f"modality is one of {', '.join(SAMPLE_MODALITIES)}, not {self.modality!r}")
        if not self.manifests:
            raise ValueError(f"a source needs at least one manifest (root {shown(self.root)})")
        for place in (self.root, *self.manifests):
            check_form(place)


@dataclass(frozen=True)
class DataConfig:
    """Data configuration: sources and preprocessing."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)  # name -> manifests; a stage's mixture names them
    manifests: list[str] = field(default_factory=list)  # where given: one source "custom" in the place of all others
    root: str = "."  # media root of `manifests`; the folder that `shapes` is rendered into
    outside_root: list[str] = field(default_factory=list)  # absolute folders that media may also lie in
    storage: StorageConfig = field(default_factory=StorageConfig)  # stores that roots and manifests may lie in
    unknown_keys: str = "refuse"  # keys of rows that are not read; "ignore" passes over them, and counts them
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # which moments of a video are shown
    picture: PictureConfig = field(default_factory=PictureConfig)  # how still pictures are shown
    budget: BudgetConfig = field(default_factory=BudgetConfig)  # tokens a sample may cost
    clip_text: ClipTextConfig = field(default_factory=ClipTextConfig)  # between clips, for encoders that take clips
    system_prompt: str = ""  # put before conversations that bring none; empty for none
    on_error: str = "skip_and_refill"  # bad media: that, counted and listed; or "raise"
    max_error_share: float = 0.01  # share of bad samples, of any source, above which a run stops
    num_workers: int = 0  # loader processes on each rank; 0 loads in the training process
    supervision: SupervisionConfig | None = field(default_factory=SupervisionConfig)  # null: no limits for a file
    frame_cache: FrameCacheConfig | None = None  # decoded frames kept on disk; null: none
    decoder_threads: int = 1  # FFmpeg threads for one video; 1 is right with several workers
    stream_max_frames: int = 400  # frames of a streaming row; messages after the last of them are dropped
    # "ours": labels on silence, turns of many frames · "released": a turn for each frame, none behind the last turn
    streams: str = "ours"
    index: str | None = None  # folder of a metadata index that packing reads; None: made in the stage's folder
    cost: CostConfig = field(default_factory=CostConfig)  # what packing balances; see `lightning-apollo data calibrate`
    visuals: str = "full"  # "single_frame": one frame of each video as an image; "blind": no media (two baselines)
    shapes: ShapesConfig | None = None  # the built-in video QA set, rendered before training where given

    def __post_init__(self) -> None:
        if self.on_error not in ("skip_and_refill", "raise"):
            raise ValueError(f"data.on_error is skip_and_refill or raise, not {self.on_error}")
        if self.visuals not in ("full", "single_frame", "blind"):
            raise ValueError(f"data.visuals is full, single_frame or blind, not {self.visuals}")
        if self.streams not in ("ours", "released"):
            raise ValueError(f"data.streams is ours or released, not {self.streams}")
        if self.unknown_keys not in (REFUSE, IGNORE):
            raise ValueError(f"data.unknown_keys is refuse or ignore, not {self.unknown_keys}")
        if not 0.0 <= self.max_error_share <= 1.0:
            raise ValueError(f"data.max_error_share is a share between 0 and 1, not {self.max_error_share}")
        for name, least in (("num_workers", 0), ("decoder_threads", 1), ("stream_max_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} must be {least} or more, it is {getattr(self, name)}")
        if any(not folder.startswith("/") for folder in self.outside_root):
            raise ValueError(f"data.outside_root names absolute folders, not {list(self.outside_root)}")
        for place in (self.root, *self.manifests):
            check_form(place)
