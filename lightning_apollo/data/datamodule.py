"""The DataModule: renders what must be rendered, reads the manifests, and hands out packed micro-batches in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from lightning_apollo.data import shapes
from lightning_apollo.data.clip_text import ClipTextConfig
from lightning_apollo.data.conversation import ChatTokenizer
from lightning_apollo.data.dataset import (
    ConversationDataset,
    MicroBatchRequest,
    PreparedBatch,
    Source,
    SourceConfig,
    open_sources,
)
from lightning_apollo.data.mixture import share_out
from lightning_apollo.data.order import epoch_order, epoch_size, micro_batches, num_micro_batches, rank_positions
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.reader import DirectReader
from lightning_apollo.data.resize import BudgetConfig
from lightning_apollo.data.sample import SamplingConfig
from lightning_apollo.data.shapes import ShapesConfig
from lightning_apollo.structures import ClipShape, PackedBatch


@dataclass(frozen=True)
class DataConfig:
    """What the model learns from, and how media become tokens."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)  # name -> manifests; a stage's mixture names them
    manifests: list[str] = field(default_factory=list)  # where given: one source "custom" in the place of all others
    root: str = "."  # media root of `manifests`; the folder that `shapes` is rendered into
    outside_root: list[str] = field(default_factory=list)  # absolute folders that media may also lie in
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # which moments of a video are shown
    budget: BudgetConfig = field(default_factory=BudgetConfig)  # tokens a sample may cost
    clip_text: ClipTextConfig = field(default_factory=ClipTextConfig)  # between clips, for encoders that take clips
    system_prompt: str = ""  # put before conversations that bring none; empty for none
    on_error: str = "skip_and_refill"  # bad media: that, counted and listed; or "raise"
    max_error_share: float = 0.01  # share of bad samples, of any source, above which a run stops
    num_workers: int = 0  # loader processes on each rank; 0 loads in the training process
    decoder_threads: int = 1  # FFmpeg threads for one video; 1 is right with several workers
    stream_max_frames: int = 400  # frames of a streaming row; messages after the last of them are dropped
    visuals: str = "full"  # "single_frame": one frame of each video as an image; "blind": no media (two baselines)
    shapes: ShapesConfig | None = None  # the built-in video QA set, rendered before training where given

    def __post_init__(self) -> None:
        if self.on_error not in ("skip_and_refill", "raise"):
            raise ValueError(f"data.on_error is skip_and_refill or raise, not {self.on_error}")
        if self.visuals not in ("full", "single_frame", "blind"):
            raise ValueError(f"data.visuals is full, single_frame or blind, not {self.visuals}")
        if not 0.0 <= self.max_error_share <= 1.0:
            raise ValueError(f"data.max_error_share is a share between 0 and 1, not {self.max_error_share}")
        for name, least in (("num_workers", 0), ("decoder_threads", 1), ("stream_max_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} must be {least} or more, it is {getattr(self, name)}")
        if any(not folder.startswith("/") for folder in self.outside_root):
            raise ValueError(f"data.outside_root names absolute folders, not {list(self.outside_root)}")


@dataclass(frozen=True)
class Batching:
    """What a stage asks of the data."""

    mixture: Mapping[str, float]  # source -> passes in an epoch, or its weight among the sources of its modality
    image_merge_size: int
    video_merge_size: int
    micro_batch_size: int  # samples of one batch
    global_batch_size: int  # samples of an optimizer step, over all ranks
    shares: Mapping[str, float] = field(default_factory=dict)  # modality -> share of the samples; empty: as they come
    clip: ClipShape | None = None  # what the model makes of clips; None: it takes frames one by one
    max_clips: int | None = None  # clips of one video, in the place of sampling.max_clips; None: that one


class VideoDataModule(LightningDataModule):
    """Packed micro-batches of the recipe's sources in a stage's mixture."""

    def __init__(
        self,
        config: DataConfig,
        batching: Batching,
        tokenizer: ChatTokenizer,
        patch_size: int,
        run_folder: Path,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.batching = batching
        self.run_folder = run_folder
        self.seed = seed
        self.sources: list[Source] = []
        sampling = config.sampling
        if batching.max_clips is not None:
            sampling = replace(sampling, max_clips=batching.max_clips)
        self.preparer = Preparer(
            tokenizer=tokenizer,
            patch_size=patch_size,
            image_merge_size=batching.image_merge_size,
            video_merge_size=batching.video_merge_size,
            sampling=sampling,
            budget=config.budget,
            system_prompt=config.system_prompt,
            stream_max_frames=config.stream_max_frames,
            visuals=config.visuals,
            seed=seed,
            reader=DirectReader(config.decoder_threads),
            clip=batching.clip,
            clip_text=config.clip_text,
        )

    def prepare_data(self) -> None:
        """Renders the built-in set where the recipe uses it; a folder that holds it already is left as it is."""
        if self.config.shapes is not None:
            shapes.render(self.config.shapes, Path(self.config.root))

    def setup(self, stage: str) -> None:
        """Opens the sources of the mixture; files of other stages need not be there."""
        wanted = {name: source for name, source in self.config.sources.items() if self.batching.mixture.get(name)}
        self.sources = open_sources(wanted, self.config.outside_root)

    def train_dataloader(self) -> MicroBatchLoader:
        if self.trainer is None:
            raise RuntimeError("a VideoDataModule gives its loader to a Trainer, which knows the ranks")
        source_sizes = {source.name: len(source) for source in self.sources}
        modalities = {name: source.modality for name, source in self.config.sources.items()}
        mixture = {name: passes for name, passes in self.batching.mixture.items() if passes}
        mixture = share_out(mixture, source_sizes, modalities, self.batching.shares)
        positions = EpochPositions(
            source_sizes=source_sizes,
            batching=replace(self.batching, mixture=mixture),
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        skips_bad = self.config.on_error == "skip_and_refill"
        return MicroBatchLoader(
            ConversationDataset(self.sources, self.preparer, self.seed, skips_bad),
            positions,
            Quarantine(self.run_folder / "quarantine.jsonl", self.config.max_error_share),
            num_workers=self.config.num_workers,
        )


class EpochPositions(Sampler[MicroBatchRequest]):
    """The requests of one rank, from a position in an epoch to the epoch's end."""

    def __init__(
        self, source_sizes: Mapping[str, int], batching: Batching, seed: int, rank: int, world_size: int
    ) -> None:
        self.source_sizes = source_sizes
        self.batching = batching
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0  # micro-batches, over all ranks, that the epoch has given already
        self.end = num_micro_batches(  # of every epoch, over all ranks
            epoch_size(source_sizes, batching.mixture), batching.micro_batch_size, batching.global_batch_size
        )

    def __iter__(self) -> Iterator[MicroBatchRequest]:
        epoch, size = self.epoch, self.batching.micro_batch_size
        order = epoch_order(self.source_sizes, self.batching.mixture, self.seed, epoch)
        batches = micro_batches(order, size, self.batching.global_batch_size)
        for position in rank_positions(self.end, self.position, self.rank, self.world_size):
            rows = [(source, row) for source, row in batches[position].tolist()]
            yield MicroBatchRequest(epoch, position * size, rows)

    def __len__(self) -> int:
        """Micro-batches of one rank in a whole epoch."""
        return self.end // self.world_size

    def advance(self) -> None:
        """Counts one micro-batch on every rank; the last one of an epoch leads to the start of the next."""
        self.position += self.world_size
        if self.position >= self.end:
            self.epoch, self.position = self.epoch + 1, 0


class MicroBatchLoader:
    """Yields packed batches; its state is (epoch, position), the same on every rank and for any number of them."""

    def __init__(
        self, dataset: ConversationDataset, positions: EpochPositions, quarantine: Quarantine, num_workers: int
    ) -> None:
        self.positions = positions
        self.quarantine = quarantine
        self._loader: DataLoader[PreparedBatch] = DataLoader(
            dataset,
            batch_size=None,  # the dataset makes whole batches
            sampler=positions,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # A fork of a process with threads (torch's, FFmpeg's, CUDA's) may inherit a lock that nobody opens again;
            # the fork server is a process without any.
            multiprocessing_context="forkserver" if num_workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[PackedBatch]:
        for prepared in self._loader:
            batch = self.quarantine.admit(prepared)
            self.positions.advance()  # before the batch is used: a state saved during its step counts it
            yield batch

    def __len__(self) -> int:
        return len(self.positions)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.positions.epoch, "position": self.positions.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.positions.epoch, self.positions.position = state["epoch"], state["position"]
