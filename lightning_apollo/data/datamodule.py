"""DataModule: packed micro-batches from manifests, in the order of the plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from lightning_apollo.data.annotations.keys import IGNORE
from lightning_apollo.data.config import DataConfig as DataConfig
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.index.build import build_index, fingerprint_of_manifests, is_current
from lightning_apollo.data.index.ignored_keys import ignored_keys_line, ignored_keys_of_index, ignored_keys_of_sources
from lightning_apollo.data.index.sample_costs import IndexedCosts, indexed_costs
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.loader import MicroBatchLoader, Positions
from lightning_apollo.data.media.frame_cache import CachedReader
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.data.media.supervisor import SupervisedReader
from lightning_apollo.data.plan.epoch import PlanConfig
from lightning_apollo.data.plan.mixture import passes_for_shares
from lightning_apollo.data.plan.order import TooFewSamples, epoch_size
from lightning_apollo.data.plan.planner import CountedPlanner, PackedPlanner, Planner
from lightning_apollo.data.plan.small_epochs import counted_sizes, packed_step
from lightning_apollo.data.plan.unseen import divisor, find_unseen, unseen_line
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.readiness import require_media, require_rows
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.errors import UserError
from lightning_apollo.progress import CheckProgress
from lightning_apollo.structures import PackedBatch


def build_reader(config: DataConfig) -> MediaReader:
    """MediaReader of a recipe: within limits and with a cache in front, where it asks for them."""
    reader: MediaReader = DirectReader(config.decoder_threads)
    if config.supervision is not None:
        reader = SupervisedReader(reader, config.supervision)
    if config.frame_cache is not None:
        reader = CachedReader(reader, config.frame_cache)
    return reader


@dataclass(frozen=True)
class Batching:
    """Requirements of a stage on its data."""

    mixture: Mapping[str, float]  # source -> passes in an epoch, or its weight among the sources of its modality
    micro_batch_size: int  # samples of one batch; not used with `packing`
    global_batch_size: int  # samples of an optimizer step, over all ranks; not used with `packing`
    epochs: int = 1
    max_steps: int = -1  # optimizer steps in the place of epochs; -1: by epochs
    packing: PlanConfig | None = None  # limits of a micro-batch; its weights are those of `mixture`
    shares: Mapping[str, float] = field(default_factory=dict)  # modality -> share of the samples; empty: as they come
    stage: str = "NAME"  # whose keys messages name

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step, over all ranks."""
        packing = self.packing
        return self.global_batch_size // self.micro_batch_size if packing is None else packing.step_size


class DataChanged(UserError, ValueError):
    """Error of data that differ from those the run started with."""


class VideoDataModule(LightningDataModule):
    """Packed micro-batches of the recipe's sources in a stage's mixture."""

    def __init__(
        self,
        config: DataConfig,
        batching: Batching,
        settings: Preprocessing,
        text: TextCounter,
        run_folder: Path,
        seed: int = 0,
        progress: Callable[[], AbstractContextManager[CheckProgress]] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """progress: opens what is told how far the index is, where packing has one made; say: is told what of the rows is
        ignored, and of batches that are smaller than the recipe's, because an epoch is. None for nobody."""
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
        self._restored: dict[str, Any] | None = (
            None  # what `state_dict` gave to the checkpoint from which a run resumes
        )
        self.costs: IndexedCosts | None = None  # where packing has them, once the data are opened
        self.fingerprint = ""  # of what a position counts in, from then on
        self.preparer = Preparer(settings, batching.packing is not None, config.visuals, seed, build_reader(config))

    @property
    def index_folder(self) -> Path:
        return self.run_folder / "index" if self.config.index is None else Path(self.config.index)

    def require_data(self) -> None:
        """UserError where the data of the stage cannot be used at all; the run's folder is left alone.

        The built-in set is rendered where the recipe uses it: its own folder is no part of the run's.
        """
        if self.config.shapes is not None:
            shapes.render_shapes(self.config.shapes, Path(self.config.root))
        sources = self._open()
        require_rows(sources)
        for source in sources if self.config.visuals != "blind" else ():
            require_media(source)

    def prepare_data(self) -> None:
        """Render the built-in set where the recipe uses it, and make what packing needs: the index and its costs.

        What is there already is left as it is.
        """
        if self.config.shapes is not None:
            shapes.render_shapes(self.config.shapes, Path(self.config.root))
        if self.batching.packing is not None:
            with self.progress() as report:
                self._prepare_packing(report)
        if self.config.unknown_keys == IGNORE and self.say is not None:
            packs = self.batching.packing is not None
            ignored = (
                ignored_keys_of_index(Index(self.index_folder)) if packs else ignored_keys_of_sources(self._open())
            )
            if line := ignored_keys_line(ignored):
                self.say(line)

    def setup(self, stage: str) -> None:
        """Open the sources of the mixture; files of other stages need not be there."""
        self.sources = self._open()
        require_rows(self.sources)
        self.fingerprint = fingerprint_of_manifests(self.sources)
        if self.batching.packing is not None:
            self.costs = indexed_costs(Index(self.index_folder), self.preparer, self.text)
            self.fingerprint = (
                f"{self.fingerprint}, {self.costs.digest()}"  # a position counts in what is planned from both
            )

    def train_dataloader(self) -> MicroBatchLoader:
        if self.trainer is None:
            raise RuntimeError("a VideoDataModule gives its loader to a Trainer, which knows the ranks")
        world_size = self.trainer.world_size
        costs = self.costs
        planner = self._counted_planner(world_size) if costs is None else self._packed_planner(costs, world_size)
        self._say_unseen(planner, world_size)
        positions = Positions(
            planner, self._num_micro_batches(planner), rank=self.trainer.global_rank, world_size=world_size
        )
        skips_bad = self.config.on_error == "skip_and_refill"
        self.loader = MicroBatchLoader(
            ConversationDataset(self.sources, self.preparer, self.seed, skips_bad, costs),
            positions,
            Quarantine(self.run_folder / "quarantine.jsonl", self.config.max_error_share),
            num_workers=self.config.num_workers,
        )
        self._restore_position()
        return self.loader

    def digests(self) -> dict[str, str]:
        """Short hashes of the data and of the plan, for all ranks to compare once the loader is made."""
        assert self.loader is not None  # training has begun
        return {"digest of the data": self.fingerprint[:12], "digest of the plan": self.loader.positions.digest()[:12]}

    def peek(self, num_batches: int) -> list[PackedBatch]:
        """This rank's next micro-batches, which training still gets."""
        assert self.loader is not None  # training asked for it
        return self.loader.peek(num_batches)

    def state_dict(self) -> dict[str, Any]:
        """Identity of these data, and the stage's position in them."""
        assert self.loader is not None  # a checkpoint is written while it is read
        return {
            "fingerprint": self.fingerprint,
            "micro_batches": self.batching.micro_batches,
            "micro_batch_size": self._micro_batch_size,
            "loader": self.loader.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise DataChanged where a run resumes with other rows, or other costs to pack by, than it was begun with.

        Lightning restores a loader only if it is asked for after the checkpoint was read; the number of steps, which the
        schedule wants, asks for it before. So the position is restored here. Nothing has been read by then.
        """
        if state_dict["fingerprint"] != self.fingerprint:
            raise DataChanged(
                f"the data differ from those the run started with (fingerprint {self.fingerprint[:12]}, then "
                f"{state_dict['fingerprint'][:12]}): put them back, or train the stage again from its start"
            )
        self._restored = state_dict
        self._restore_position()

    def _restore_position(self) -> None:
        """Go to the sample at which the checkpoint was written, whatever the micro-batches were that led there."""
        if self.loader is None or self._restored is None:
            return
        size = self._restored["micro_batch_size"]
        before, now = size * self._restored["micro_batches"], self._micro_batch_size * self.batching.micro_batches
        if before != now:
            what = "samples" if self.batching.packing is None else "micro-batches"
            raise DataChanged(
                f"this run started with steps of {before} {what}, which now are {now}: an epoch is smaller than a step, so "
                f"resume with as many ranks and the stages.{self.batching.stage}.micro_batch_size as before"
            )
        loader = self._restored["loader"]
        places = {name: loader[name] * size // self._micro_batch_size for name in ("position", "num_given")}
        self.loader.load_state_dict({**loader, **places})

    @property
    def _micro_batch_size(self) -> int:
        """Samples of a micro-batch; 1 where it is packed and so is itself what positions count."""
        return self.batching.micro_batch_size if self.batching.packing is None else 1

    def _open(self) -> list[Source]:
        wanted = {name: source for name, source in self.config.sources.items() if self.batching.mixture.get(name)}
        return open_sources(wanted, self.config.outside_root, self.config.unknown_keys, self.config.storage.protocols)

    def _prepare_packing(self, report: CheckProgress) -> None:
        """Make the index or bring it up to date, where it is this stage's own; then what its samples cost."""
        sources, folder, jobs = self._open(), self.index_folder, len(os.sched_getaffinity(0))
        if self.config.index is None:
            index = build_index(sources, folder, jobs, text=self.text, progress=report)
        elif not is_current(index := Index(folder), sources, self.text):
            raise DataChanged(
                f"{folder}: not an index of these manifests and media as they are now: bring it up to date with "
                "`lightning-apollo data index --recipe RECIPE --output INDEX`"
            )
        indexed_costs(index, self.preparer, self.text, jobs, lambda done, total: report("samples", done, total, 0))

    def _counted_planner(self, world_size: int) -> CountedPlanner:
        batching, name = self.batching, self.batching.stage
        sizes, mixture = self._sizes_and_mixture()
        num_samples = epoch_size(sizes, mixture)
        if not num_samples:
            raise TooFewSamples(
                f"stage {name}: an epoch draws none of {sum(sizes.values())} rows: raise the passes in stages.{name}.mixture"
            )
        micro, whole = counted_sizes(
            num_samples, batching.micro_batch_size, batching.global_batch_size, world_size, name
        )
        if whole != batching.global_batch_size:
            self._use_smaller_steps(
                replace(batching, micro_batch_size=micro, global_batch_size=whole),
                f"an epoch has {num_samples} samples, fewer than a step of {batching.global_batch_size}: a step takes "
                f"{whole}; to choose, set stages.{name}.global_batch_size={whole} stages.{name}.micro_batch_size={micro}",
            )
        return CountedPlanner(sizes, mixture, micro, whole, self.seed)

    def _packed_planner(self, costs: IndexedCosts, world_size: int) -> PackedPlanner:
        assert self.batching.packing is not None  # else there are no costs
        name, before = self.batching.stage, self.batching.packing.step_size
        _, mixture = self._sizes_and_mixture()
        packing = replace(self.batching.packing, weights=mixture)
        packing = replace(packing, step_size=packed_step(costs.samples, packing, world_size, name))
        if packing.step_size != before:
            self._use_smaller_steps(
                replace(self.batching, packing=packing),
                f"an epoch packs into fewer micro-batches than the {before} of a step: a step takes {packing.step_size}; "
                f"to choose, set stages.{name}.packing.micro_batches={packing.step_size}",
            )
        numbers = {source.name: number for number, source in enumerate(self.sources)}
        return PackedPlanner(
            costs.samples,
            costs.rows,
            [numbers.get(name, -1) for name in costs.samples.source_names],
            packing,
        )

    def _use_smaller_steps(self, batching: Batching, reason: str) -> None:
        """All ranks come to the same; the trainer accumulates as many micro-batches as the step now has."""
        assert self.trainer is not None  # which asks for the loader
        self.batching = batching
        self.trainer.accumulate_grad_batches = batching.micro_batches // self.trainer.world_size
        if self.say is not None and self.trainer.is_global_zero:
            self.say(f"stage {batching.stage}: {reason}")

    def _say_unseen(self, planner: Planner, world_size: int) -> None:
        """Say on rank 0 which rows the stage never shows."""
        assert self.trainer is not None  # which asks for the loader
        if self.say is None or not self.trainer.is_global_zero:
            return
        batching = self.batching
        unseen = find_unseen(planner, [source.name for source in self.sources], self._num_micro_batches(planner))
        if batching.max_steps != -1:
            step = ("max_steps", 0)
        elif batching.packing is None:
            unit = batching.micro_batch_size * world_size
            step = ("global_batch_size", divisor(unseen.epoch_samples, batching.global_batch_size, unit))
        else:
            step = ("epochs", 0)  # into how many micro-batches an epoch packs changes with it
        steps_of_epoch = planner.num_micro_batches(0) // batching.micro_batches
        if line := unseen_line(unseen, batching.stage, steps_of_epoch, step):
            self.say(line)

    def _sizes_and_mixture(self) -> tuple[dict[str, int], dict[str, float]]:
        """Rows of each source, and its weight in an epoch with the shares of modalities worked in."""
        sizes = {source.name: len(source) for source in self.sources}
        modalities = {name: source.modality for name, source in self.config.sources.items()}
        mixture = {name: weight for name, weight in self.batching.mixture.items() if weight}
        return sizes, passes_for_shares(mixture, sizes, modalities, self.batching.shares)

    def _num_micro_batches(self, planner: Planner) -> int:
        """Of the whole stage, over all ranks."""
        batching = self.batching
        if batching.max_steps == -1:
            return sum(planner.num_micro_batches(epoch) for epoch in range(batching.epochs))
        return batching.max_steps * batching.micro_batches


@contextmanager
def _nobody() -> Iterator[CheckProgress]:
    yield lambda what, done, total, errors: None
