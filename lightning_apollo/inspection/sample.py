"""One training sample and the micro-batch around it, made by the objects that make them in training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import Trainer

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.datamodule import VideoDataModule
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.loader import MicroBatchLoader
from lightning_apollo.data.plan.planner import MicroBatchRequest, Planner
from lightning_apollo.data.source import Source
from lightning_apollo.inspection.reduction import Reduce, known_reduction
from lightning_apollo.models.reduce import Reduction
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.fit import silence_lightning
from lightning_apollo.structures import MediaError, PackedBatch, Sample, VisualBatch

EPOCH = 0  # whose order samples are numbered in


@dataclass(frozen=True)
class EpochPosition:
    """Position of a sample in the order of the epoch, over all ranks."""

    number: int  # from 0
    num_samples: int
    micro_batch: int  # from 0
    num_micro_batches: int
    request: MicroBatchRequest  # the rows of that micro-batch

    @property
    def source_and_row(self) -> tuple[int, int]:
        """Index of the source, and of the row in it."""
        return self.request.rows[self.number - self.request.first_position]


@dataclass(frozen=True)
class Inspected:
    """A sample as the model gets it, or why it cannot be had."""

    recipe: Recipe
    stage: str
    place: EpochPosition
    conversation: Conversation
    source: Source
    data: VideoDataModule
    sample: Sample | None
    error: MediaError | ValueError | None  # what is wrong with it
    batch: PackedBatch | None  # the micro-batch; None where one of its samples cannot be read and has no other
    reduction: Reduction | None  # of the sample's visual tokens; None where it is not known
    batch_reduction: Reduction | None  # of the batch's
    reduction_note: str  # on how it is known, or why not; empty where there is nothing to say


def inspect_sample(recipe: Recipe, stage: str, number: int = 0, sample_id: str | None = None) -> Inspected:
    """Return sample `number` of the stage's first epoch, or the first one that is called `sample_id`.

    Ids are those of quarantine.jsonl. Renders and indexes what training would. RecipeError where there is no such stage
    or sample, ManifestError for a row that training would stop at.
    """
    if stage not in recipe.stages:
        raise RecipeError(f"{recipe.name} has no stage {stage}; it has {', '.join(recipe.stages)}")
    data = build_data(recipe, stage)
    loader = _open_loader(data)
    planner, dataset = loader.positions.planner, loader.dataset
    if sample_id is not None:
        number = _number_of(planner, data.sources, sample_id)
    place = _place(planner, number)
    source, row = place.source_and_row
    sample, error = _prepare(dataset, source, row)
    batch = dataset[place.request].batch
    reduce, note = known_reduction(recipe, stage)
    own = None if sample is None else VisualBatch.from_items(sample.visuals, sample.patch_size)
    return Inspected(
        recipe=recipe,
        stage=stage,
        place=place,
        conversation=data.sources[source][row],
        source=data.sources[source],
        data=data,
        sample=sample,
        error=error,
        batch=batch,
        reduction=_reduction(reduce, own),
        batch_reduction=_reduction(reduce, None if batch is None else batch.visual),
        reduction_note=note,
    )


def _open_loader(data: VideoDataModule) -> MicroBatchLoader:
    """The loader of a run on one rank, opened and not started: the order of samples is the same on any number."""
    silence_lightning()
    data.trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def _prepare(
    dataset: ConversationDataset, source: int, row: int
) -> tuple[Sample | None, MediaError | ValueError | None]:
    """The sample, or what training would put into quarantine.jsonl."""
    try:
        return dataset.prepare(source, row, EPOCH), None
    except ManifestError:  # a mistake to correct, which ends training
        raise
    except (MediaError, ValueError) as error:
        return None, error


def _reduction(reduce: Reduce | None, visual: VisualBatch | None) -> Reduction | None:
    return None if visual is None or reduce is None else reduce(visual)


def _place(planner: Planner, number: int) -> EpochPosition:
    """Position of sample `number`; RecipeError with the range where there is none."""
    num_micro_batches = planner.num_micro_batches(EPOCH)
    last = planner.request(EPOCH, num_micro_batches - 1)
    num_samples = last.first_position + len(last.rows)
    if not 0 <= number < num_samples:
        raise RecipeError(f"there is no sample {number}: the first epoch has samples 0 to {num_samples - 1}")
    micro_batch = bisect_right(
        range(num_micro_batches), number, key=lambda position: planner.request(EPOCH, position).first_position
    )
    position = micro_batch - 1  # the last one that begins at `number` or before it
    return EpochPosition(number, num_samples, position, num_micro_batches, planner.request(EPOCH, position))


def _number_of(planner: Planner, sources: Sequence[Source], sample_id: str) -> int:
    """The number of the first sample with this id; RecipeError where the epoch has none."""
    wanted = set(_rows_called(sources, sample_id))
    if not wanted:
        raise RecipeError(
            f"no sample is called {sample_id}: ids are a manifest's name and a row from 1, as train.jsonl:17"
        )
    for position in range(planner.num_micro_batches(EPOCH)):
        request = planner.request(EPOCH, position)
        for number, source_and_row in enumerate(request.rows, start=request.first_position):
            if source_and_row in wanted:
                return number
    raise RecipeError(f"{sample_id} is not among the samples of the first epoch, which does not draw every row")


def _rows_called(sources: Sequence[Source], sample_id: str) -> list[tuple[int, int]]:
    """Index of the source and row in it, of every row with this id; no row is read."""
    found = []
    for index, source in enumerate(sources):
        first = 0
        for manifest in source.manifests:
            found += [(index, first + row) for row in range(len(manifest)) if manifest.sample_id(row) == sample_id]
            first += len(manifest)
    return found
