"""The DataModule: renders what must be rendered, reads the manifests, and hands out packed micro-batches in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from lightning_apollo.data import shapes
from lightning_apollo.data.annotations.keys import IGNORE, REFUSE
from lightning_apollo.data.clip_text import ClipTextConfig
from lightning_apollo.data.costs import CostConfig
from lightning_apollo.data.dataset import ConversationDataset, Source, SourceConfig, open_sources
from lightning_apollo.data.frame_cache import CachedReader, FrameCacheConfig
from lightning_apollo.data.ignored_keys import ignored_keys_of_index, ignored_keys_of_sources, one_line
from lightning_apollo.data.index import Index
from lightning_apollo.data.index_build import Progress, build_index, fingerprint_of_manifests, is_current
from lightning_apollo.data.index_costs import IndexedCosts, indexed_costs
from lightning_apollo.data.index_tokens import TextCounter
from lightning_apollo.data.loader import MicroBatchLoader, Positions
from lightning_apollo.data.mixture import share_out
from lightning_apollo.data.plan import PlanConfig
from lightning_apollo.data.planner import CountedPlanner, PackedPlanner, Planner
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.reader import DirectReader, MediaReader
from lightning_apollo.data.resize import BudgetConfig
from lightning_apollo.data.rgb import PictureConfig
from lightning_apollo.data.sample import SamplingConfig
from lightning_apollo.data.shapes import ShapesConfig
from lightning_apollo.data.supervised import SupervisedReader, SupervisionConfig
from lightning_apollo.errors import UserError
from lightning_apollo.structures import ClipShape


@dataclass(frozen=True)
class DataConfig:
    """What the model learns from, and how media become tokens."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)  # name -> manifests; a stage's mixture names them
    manifests: list[str] = field(default_factory=list)  # where given: one source "custom" in the place of all others
    root: str = "."  # media root of `manifests`; the folder that `shapes` is rendered into
    outside_root: list[str] = field(default_factory=list)  # absolute folders that media may also lie in
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
    index: str | None = None  # folder of a metadata index that packing reads; None: made in the stage's folder
    cost: CostConfig = field(default_factory=CostConfig)  # what packing balances; see `lightning-apollo data calibrate`
    visuals: str = "full"  # "single_frame": one frame of each video as an image; "blind": no media (two baselines)
    shapes: ShapesConfig | None = None  # the built-in video QA set, rendered before training where given

    def __post_init__(self) -> None:
        if self.on_error not in ("skip_and_refill", "raise"):
            raise ValueError(f"data.on_error is skip_and_refill or raise, not {self.on_error}")
        if self.visuals not in ("full", "single_frame", "blind"):
            raise ValueError(f"data.visuals is full, single_frame or blind, not {self.visuals}")
        if self.unknown_keys not in (REFUSE, IGNORE):
            raise ValueError(f"data.unknown_keys is refuse or ignore, not {self.unknown_keys}")
        if not 0.0 <= self.max_error_share <= 1.0:
            raise ValueError(f"data.max_error_share is a share between 0 and 1, not {self.max_error_share}")
        for name, least in (("num_workers", 0), ("decoder_threads", 1), ("stream_max_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} must be {least} or more, it is {getattr(self, name)}")
        if any(not folder.startswith("/") for folder in self.outside_root):
            raise ValueError(f"data.outside_root names absolute folders, not {list(self.outside_root)}")


def build_reader(config: DataConfig) -> MediaReader:
    """Who opens media for a recipe: within limits and with a cache in front, where it asks for them."""
    reader: MediaReader = DirectReader(config.decoder_threads, config.picture.background)
    if config.supervision is not None:
        reader = SupervisedReader(reader, config.supervision)
    if config.frame_cache is not None:
        reader = CachedReader(reader, config.frame_cache, config.picture)
    return reader


@dataclass(frozen=True)
class Batching:
    """What a stage asks of the data."""

    mixture: Mapping[str, float]  # source -> passes in an epoch, or its weight among the sources of its modality
    image_merge_size: int
    video_merge_size: int
    micro_batch_size: int  # samples of one batch; not used with `packing`
    global_batch_size: int  # samples of an optimizer step, over all ranks; not used with `packing`
    epochs: int = 1
    max_steps: int = -1  # optimizer steps in the place of epochs; -1: by epochs
    packing: PlanConfig | None = None  # limits of a micro-batch; its weights are those of `mixture`
    shares: Mapping[str, float] = field(default_factory=dict)  # modality -> share of the samples; empty: as they come
    clip: ClipShape | None = None  # what the model makes of clips; None: it takes frames one by one
    max_clips: int | None = None  # clips of one video, in the place of sampling.max_clips; None: that one


class DataChanged(UserError, ValueError):
    """Data that is another one than that with which a run was begun."""


class VideoDataModule(LightningDataModule):
    """Packed micro-batches of the recipe's sources in a stage's mixture."""

    def __init__(
        self,
        config: DataConfig,
        batching: Batching,
        text: TextCounter,
        patch_size: int,
        run_folder: Path,
        seed: int = 0,
        progress: Callable[[], AbstractContextManager[Progress]] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """progress: opens what is told how far the index is, where packing has one made; say: is told once what of the
        rows is ignored; None for nobody."""
        super().__init__()
        self.config = config
        self.batching = batching
        self.text = text
        self.run_folder = run_folder
        self.seed = seed
        self.progress = progress or _nobody
        self.say = say
        self.sources: list[Source] = []
        self.loader: MicroBatchLoader | None = None
        self._loader_state: dict[str, Any] | None = None  # from a checkpoint
        self.fingerprint = ""  # of the data, once they are opened
        sampling = config.sampling
        if batching.max_clips is not None:
            sampling = replace(sampling, max_clips=batching.max_clips)
        self.preparer = Preparer(
            tokenizer=text.tokenizer,
            patch_size=patch_size,
            image_merge_size=batching.image_merge_size,
            video_merge_size=batching.video_merge_size,
            sampling=sampling,
            budget=config.budget,
            system_prompt=config.system_prompt,
            stream_max_frames=config.stream_max_frames,
            visuals=config.visuals,
            seed=seed,
            reader=build_reader(config),
            clip=batching.clip,
            clip_text=config.clip_text,
        )

    @property
    def index_folder(self) -> Path:
        return self.run_folder / "index" if self.config.index is None else Path(self.config.index)

    def prepare_data(self) -> None:
        """Renders the built-in set where the recipe uses it, and makes what packing needs: the index and its costs.

        What is there already is left as it is.
        """
        if self.config.shapes is not None:
            shapes.render(self.config.shapes, Path(self.config.root))
        if self.batching.packing is not None:
            with self.progress() as report:
                self._prepare_packing(report)
        if self.config.unknown_keys == IGNORE and self.say is not None:
            packs = self.batching.packing is not None
            ignored = (
                ignored_keys_of_index(Index(self.index_folder)) if packs else ignored_keys_of_sources(self._open())
            )
            if line := one_line(ignored):
                self.say(line)

    def setup(self, stage: str) -> None:
        """Opens the sources of the mixture; files of other stages need not be there."""
        self.sources = self._open()
        packs = self.batching.packing is not None  # then the index's, which covers media too; else of the manifests
        self.fingerprint = Index(self.index_folder).fingerprint if packs else fingerprint_of_manifests(self.sources)

    def train_dataloader(self) -> MicroBatchLoader:
        if self.trainer is None:
            raise RuntimeError("a VideoDataModule gives its loader to a Trainer, which knows the ranks")
        packs = self.batching.packing is not None
        costs = indexed_costs(Index(self.index_folder), self.preparer, self.text) if packs else None
        planner = self._counted_planner() if costs is None else self._packed_planner(costs)
        positions = Positions(
            planner, self._num_micro_batches(planner), rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )
        skips_bad = self.config.on_error == "skip_and_refill"
        self.loader = MicroBatchLoader(
            ConversationDataset(self.sources, self.preparer, self.seed, skips_bad, costs),
            positions,
            Quarantine(self.run_folder / "quarantine.jsonl", self.config.max_error_share),
            num_workers=self.config.num_workers,
        )
        if self._loader_state is not None:
            self.loader.load_state_dict(self._loader_state)
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        """What tells these data from any others, and where in them the stage is."""
        assert self.loader is not None  # a checkpoint is written while it is read
        return {"fingerprint": self.fingerprint, "loader": self.loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises DataChanged where a run goes on with other data than it was begun with.

        Lightning restores a loader only if it is asked for after the checkpoint was read; the number of steps, which the
        schedule wants, asks for it before. So the position is restored here. Nothing has been read by then.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise DataChanged(
                f"the data are not those that this run was begun with (fingerprint {self.fingerprint[:12]}, then "
                f"{state_dict['fingerprint'][:12]}): put them back, or train the stage again from its start"
            )
        self._loader_state = state_dict["loader"]
        if self.loader is not None:
            self.loader.load_state_dict(state_dict["loader"])

    def _open(self) -> list[Source]:
        wanted = {name: source for name, source in self.config.sources.items() if self.batching.mixture.get(name)}
        return open_sources(wanted, self.config.outside_root, self.config.unknown_keys)

    def _prepare_packing(self, report: Progress) -> None:
        """Makes the index, or brings it up to date, where it is this stage's own; then what its samples cost."""
        sources, folder, jobs = self._open(), self.index_folder, len(os.sched_getaffinity(0))
        if self.config.index is None:
            index = build_index(sources, folder, jobs, text=self.text, progress=report)
        elif not is_current(index := Index(folder), sources, self.text):
            raise DataChanged(
                f"{folder}: not an index of these manifests and media as they are now: bring it up to date with "
                "`lightning-apollo data index --recipe RECIPE --output INDEX`"
            )
        indexed_costs(index, self.preparer, self.text, jobs, lambda done, total: report("samples", done, total, 0))

    def _counted_planner(self) -> CountedPlanner:
        batching = self.batching
        sizes, mixture = self._sizes_and_mixture()
        return CountedPlanner(sizes, mixture, batching.micro_batch_size, batching.global_batch_size, self.seed)

    def _packed_planner(self, costs: IndexedCosts) -> PackedPlanner:
        assert self.batching.packing is not None  # else there are no costs
        _, mixture = self._sizes_and_mixture()
        numbers = {source.name: number for number, source in enumerate(self.sources)}
        return PackedPlanner(
            costs.samples,
            costs.rows,
            [numbers.get(name, -1) for name in costs.samples.source_names],
            replace(self.batching.packing, weights=mixture),
        )

    def _sizes_and_mixture(self) -> tuple[dict[str, int], dict[str, float]]:
        """Rows of each source, and its weight in an epoch with the shares of modalities worked in."""
        sizes = {source.name: len(source) for source in self.sources}
        modalities = {name: source.modality for name, source in self.config.sources.items()}
        mixture = {name: weight for name, weight in self.batching.mixture.items() if weight}
        return sizes, share_out(mixture, sizes, modalities, self.batching.shares)

    def _num_micro_batches(self, planner: Planner) -> int:
        """Of the whole stage, over all ranks."""
        batching = self.batching
        if batching.max_steps == -1:
            return sum(planner.num_micro_batches(epoch) for epoch in range(batching.epochs))
        planner.num_micro_batches(0)  # raises where an epoch has not one whole step
        if batching.packing is not None:
            return batching.max_steps * batching.packing.step_size
        return batching.max_steps * (batching.global_batch_size // batching.micro_batch_size)


@contextmanager
def _nobody() -> Iterator[Progress]:
    yield lambda what, done, total, errors: None
