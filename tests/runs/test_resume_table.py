"""The table of what may change on resume (docs/runs.md): the weights that a stage ends in with each of its values."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.runs import fit
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from tests.small_recipe import recipe
from tests.stopped_runs import with_notes

STAGE = "videos"
# Two steps of four micro-batches of two samples; the first of them is in a checkpoint
WORDS = (f"stages.{STAGE}.max_steps=2", "trainer.checkpoint.every_n_steps=1", "data.shapes.num_clips=6")
DROPOUT = "model.llm.attention_dropout=0.3"
BIT_EQUAL = [
    "name=other",
    "data.num_workers=1",
    "data.decoder_threads=2",
    "data.frame_cache={{folder: {folder}/frames, max_gigabytes: 0.1}}",
    "data.on_error=raise",
    "data.max_error_share=0.5",
    "data.unknown_keys=ignore",
    "data.outside_root=[{folder}]",
    "data.storage.protocols=[memory]",
    "data.root={folder}/copy",
    "trainer.non_finite.action=skip",
    "trainer.log_every_n_steps=2",
    "trainer.checkpoint.keep=1",
    "trainer.preemption.requeue=false",
    "trainer.blank_media_check=false",
    f"stages.{STAGE}.activation_checkpointing=true",
]
ALONE = [  # which start processes, or a thread that watches
    "data.supervision={{deadline_seconds: 60}}",
    "trainer.sentinel=true",
]


def small(folder: Path, *words: str) -> Recipe:
    """The recipe with its second stage alone, which so begins from random weights."""
    one = recipe(folder, *WORDS, f"data.root={folder}/shapes", *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


def weights(one: Recipe) -> dict[str, Tensor]:
    return load_file(stage_folder(one, STAGE) / "model.safetensors")


def trained(folder: Path, name: str, *words: str) -> dict[str, Tensor]:
    """The weights of the stage trained in one go; `folder/name.begun` has it as it was after its first step."""
    one = small(folder, f"output={folder / name}", *words)

    def keep() -> None:
        shutil.copytree(stage_folder(one, STAGE), folder / f"{name}.begun" / STAGE, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "stage_callbacks", with_notes(folder / f"{name}.notes", 1, keep))
        run_stage(one, STAGE)
    return weights(one)


def resumed(folder: Path, name: str, target: str, *words: str) -> dict[str, Tensor]:
    """The weights after the first step of `trained` and a resume with these words."""
    shutil.copytree(folder / f"{name}.begun", folder / target)
    one = small(folder, f"output={folder / target}", *words)
    with pytest.MonkeyPatch.context() as patch:
        notes = folder / f"{target}.notes"
        patch.setattr(fit, "stage_callbacks", with_notes(notes))
        run_stage(one, STAGE, resume=True)
    assert '"step": 0' not in (notes / "rank0.jsonl").read_text()  # it did not begin again
    return weights(one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def with_dropout(folder: Path) -> dict[str, Tensor]:
    expected = trained(folder, "dropout", DROPOUT)
    shutil.copytree(folder / "shapes", folder / "copy")
    return expected


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def test_all_values_of_the_table_at_once_end_in_the_same_bits(folder: Path, with_dropout: dict[str, Tensor]) -> None:
    words = [word.format(folder=folder) for word in BIT_EQUAL]
    assert_equal(resumed(folder, "dropout", "all", DROPOUT, *words), with_dropout)


@pytest.mark.slow
@pytest.mark.parametrize("word", [*BIT_EQUAL, *ALONE])
def test_each_value_of_the_table_ends_in_the_same_bits(
    word: str, folder: Path, with_dropout: dict[str, Tensor]
) -> None:
    target = word.partition("=")[0]
    assert_equal(resumed(folder, "dropout", target, DROPOUT, word.format(folder=folder)), with_dropout)


def test_another_micro_batch_learns_from_the_same_samples(folder: Path) -> None:
    """Sums change their order, so that float64 agrees to its rounding; twice the size, and half of it."""
    precision = "trainer.precision=64-true"
    expected = trained(folder, "exact", precision)
    for size in (4, 1):
        found = resumed(folder, "exact", f"micro{size}", precision, f"stages.{STAGE}.micro_batch_size={size}")
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-7, atol=1e-9, msg=name)


def test_what_makes_another_training_is_refused(folder: Path, with_dropout: dict[str, Tensor]) -> None:
    one = small(folder, f"output={folder / 'dropout.begun'}", DROPOUT, f"stages.{STAGE}.global_batch_size=16", "seed=3")
    said = rf"stages\.{STAGE}\.global_batch_size was 8 and is 16.*seed was 1 and is 3"
    with pytest.raises(RecipeError, match=said):
        run_stage(one, STAGE, resume=True)
