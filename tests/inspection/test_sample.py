"""Choice of the inspected sample: the plan's own, in its training micro-batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.data.plan.order import epoch_order
from lightning_apollo.inspection.sample import inspect_sample
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs import fit
from lightning_apollo.structures import IGNORE_INDEX, MediaError, PackedBatch
from tests.inspection.pages import STAGE, videos_recipe
from tests.small_data import turns, write_pictures, write_rows


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return videos_recipe(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def trained_on(small: Recipe) -> list[PackedBatch]:
    """The batches of a run of the stage, in order."""
    batches: list[PackedBatch] = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer: object, pl_module: object, batch: PackedBatch, batch_idx: int) -> None:
            batches.append(batch)

    of_stage = fit.stage_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "stage_callbacks", lambda *arguments: [*of_stage(*arguments), Keep()])
        fit.run_stage(small, STAGE)
    return batches


@pytest.mark.parametrize("number", [0, 1, 5])
def test_it_is_what_training_got(number: int, small: Recipe, trained_on: list[PackedBatch]) -> None:
    """Micro-batches are of two samples: the tokens, the labels, the pixels and the neighbour are those of a run."""
    inspected = inspect_sample(small, STAGE, number)
    batch, shown = trained_on[number // 2], inspected.batch
    assert shown is not None
    assert shown.sample_ids == batch.sample_ids
    for name in ("input_ids", "labels", "visual_positions"):
        assert torch.equal(getattr(shown, name), getattr(batch, name))
    assert torch.equal(shown.visual.pixels, batch.visual.pixels)
    sample, start = inspected.sample, sum(batch.lengths[: number % 2])
    assert sample is not None
    assert sample.sample_id == batch.sample_ids[number % 2]
    own = slice(start, start + batch.lengths[number % 2])
    assert torch.equal(sample.input_ids, batch.input_ids[own])
    assert torch.equal(sample.labels[1:], batch.labels[own][1:])
    assert batch.labels[start] == IGNORE_INDEX


def test_numbers_are_places_in_the_epochs_order(small: Recipe) -> None:
    inspected = inspect_sample(small, STAGE, 13)
    sizes = {source.name: len(source) for source in inspected.data.sources}
    order = epoch_order(sizes, small.stages[STAGE].mixture, small.seed, epoch=0)
    source, row = order[13].tolist()
    manifest = ("image_captions", "video_qa", "text")[source]
    assert inspected.conversation.sample_id == f"{manifest}.jsonl:{row + 1}"
    assert (inspected.place.micro_batch, inspected.place.number) == (6, 13)
    assert inspected.place.num_samples == len(order) // 8 * 8  # whole steps


def test_an_id_leads_to_its_number(small: Recipe) -> None:
    for number in (0, 7, 20):
        name = inspect_sample(small, STAGE, number).conversation.sample_id
        again = inspect_sample(small, STAGE, sample_id=name)
        assert again.conversation.sample_id == name
        assert again.place.number <= number  # the first of those that are drawn more than once


def test_an_id_of_the_second_manifest_of_a_source(tmp_path: Path) -> None:
    rows = [[{"conversations": turns(f"{name} {row}?", "yes")} for row in range(8)] for name in "ab"]
    manifests = [write_rows(tmp_path / f"{name}.jsonl", own) for name, own in zip("ab", rows, strict=True)]
    words = [f"data.manifests=[{','.join(map(str, manifests))}]", f"stages.{STAGE}.global_batch_size=16"]
    conversation = inspect_sample(videos_recipe(tmp_path / "run", *words), STAGE, sample_id="b.jsonl:3").conversation
    assert conversation.sample_id == "b.jsonl:3"
    assert "b 2?" in str(conversation.messages[0])


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_number_outside_is_one_line_with_the_range(number: int, small: Recipe) -> None:
    last = inspect_sample(small, STAGE).place.num_samples - 1
    with pytest.raises(RecipeError, match=rf"{number}\b.*\b0 to {last}$"):
        inspect_sample(small, STAGE, number)
    assert inspect_sample(small, STAGE, last).place.number == last


def test_ids_and_stages_that_are_not_there(small: Recipe) -> None:
    with pytest.raises(RecipeError, match="nobody:1"):
        inspect_sample(small, STAGE, sample_id="nobody:1")
    few = replace(small.stages[STAGE], mixture={"images": 0.5, "videos": 1.0})  # half of the captions, one epoch
    sources = {name: source for name, source in small.data.sources.items() if name != "text"}
    some = replace(small, data=replace(small.data, sources=sources), stages={STAGE: few})
    rows = [f"image_captions.jsonl:{row}" for row in range(1, 17)]
    refused = [row for row in rows if _is_refused(some, row)]
    assert 8 <= len(refused) < 16
    with pytest.raises(RecipeError, match=r"test.*stage video\b.*videos"):
        inspect_sample(small, "video")


def _is_refused(one: Recipe, sample_id: str) -> bool:
    try:
        inspect_sample(one, STAGE, sample_id=sample_id)
    except RecipeError as error:
        return "is not among the samples of the first epoch" in str(error)
    return False


def test_packed_micro_batches_are_counted_by_what_they_hold(small: Recipe, tmp_path: Path) -> None:
    words = [f"data.root={small.data.root}", f"stages.{STAGE}.packing.max_llm_tokens=1200"]
    words += [f"stages.{STAGE}.packing.max_patches=2000", f"stages.{STAGE}.packing.micro_batches=2"]
    packed = videos_recipe(tmp_path, *words)
    first = inspect_sample(packed, STAGE, 0)
    assert first.batch is not None
    num_first = len(first.batch)
    assert num_first > 2
    next_one = inspect_sample(packed, STAGE, num_first)
    assert (next_one.place.micro_batch, next_one.place.request.first_position) == (1, num_first)
    assert sum(first.batch.lengths) <= 1200


def test_a_broken_file_is_a_reason_and_another_row_is_in_the_batch(tmp_path: Path) -> None:
    manifest = write_pictures(tmp_path / "pictures", 24, broken=range(0, 24, 3))
    one = videos_recipe(tmp_path, f"data.manifests=[{manifest}]", f"data.root={tmp_path / 'pictures'}")
    broken = inspect_sample(one, STAGE, sample_id="pictures.jsonl:4")
    assert broken.sample is None
    assert isinstance(broken.error, MediaError)
    assert broken.error.path.endswith("003.png")
    assert broken.batch is not None
    assert len(broken.batch) == 2
    assert "pictures.jsonl:4" not in broken.batch.sample_ids
    ended = inspect_sample(replace(one, data=replace(one.data, on_error="raise")), STAGE, sample_id="pictures.jsonl:4")
    assert ended.batch is None


def test_a_row_that_ends_training_ends_this_too(tmp_path: Path) -> None:
    rows = [{"conversations": turns("Who?", "me")} for _ in range(8)]
    manifest = write_rows(tmp_path / "rows.jsonl", [*rows[:7], {"conversations": "nothing"}])
    one = videos_recipe(tmp_path, f"data.manifests=[{manifest}]")
    with pytest.raises(ManifestError):
        inspect_sample(one, STAGE, sample_id="rows.jsonl:8")
