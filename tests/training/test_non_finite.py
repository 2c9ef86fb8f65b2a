"""Steps whose loss or gradient is not a number: all ranks stop, or all leave the step out and nothing changes by it."""

import csv
import json
import math
from pathlib import Path

import pytest

from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.callbacks.non_finite import NonFinite
from lightning_apollo.training.config import NonFiniteConfig
from tests.launch import launch
from tests.small_recipe import recipe
from tests.training.poisoned_runs import Poison, train_poisoned

STAGE = "videos"
SKIP = "trainer.non_finite.action=skip"


def small(folder: Path, shapes: Path, *words: str) -> Recipe:
    """The recipe with its second stage alone: three steps of four micro-batches of two samples."""
    folder.mkdir(exist_ok=True)
    one = recipe(folder, f"data.root={shapes}", f"output={folder}", "data.shapes.num_clips=6", *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in set is rendered once."""
    return tmp_path_factory.mktemp("non_finite") / "shapes"


def logged(one: Recipe) -> list[dict[str, str]]:
    with (stage_folder(one, STAGE) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_stops_before_it_takes_the_step(
    what: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison(what, 0, (5,))  # the second micro-batch of the second step
    error = train_poisoned(small(tmp_path, shapes), STAGE, poison, monkeypatch.setattr)
    assert error is not None
    assert len(poison.states) == 2  # before the first step and after it
    first, second = poison.samples
    if what == "loss":
        assert error.startswith(f"step 2: the loss is nan from {first}, {second} (rank 0); the weights are still those")
    else:  # it came from one of all samples of the step
        assert error.startswith("step 2: the loss is ")
        assert "the gradient's norm nan with " in error
        assert {first, second} < set(error.split(" with ")[1].split(" (rank 0)")[0].split(", "))
    assert "trainer.non_finite.action=skip" in error
    assert not (stage_folder(small(tmp_path, shapes), STAGE) / "done.json").exists()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_left_out_changes_nothing_and_is_counted(
    what: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clean, poison = Poison(what, 0, ()), Poison(what, 0, (4, 5))  # of the second step
    with monkeypatch.context() as patch:
        assert train_poisoned(small(tmp_path / "clean", shapes, SKIP), STAGE, clean, patch.setattr) is None
    assert not caplog.messages
    one = small(tmp_path / "one", shapes, SKIP)
    assert train_poisoned(one, STAGE, poison, monkeypatch.setattr) is None
    begun, first, second, third = poison.states
    assert begun != first == second != third  # weights and optimizer, bit for bit
    assert [begun, first] == clean.states[:2]
    assert poison.rates == clean.rates  # the schedule advances
    (said,) = caplog.messages
    assert said.startswith("step 2: the loss is ")
    assert said.endswith("the step is left out, the 1. of 20")
    assert [float(row["skipped_steps"]) for row in logged(one)] == [0.0, 1.0, 1.0]
    assert [math.isfinite(float(row["grad_norm"])) for row in logged(one)] == [True, False, True]


def test_more_steps_than_the_recipe_allows_stop_the_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison("loss", 0, (0, 4, 8))
    one = small(tmp_path, shapes, SKIP, "trainer.non_finite.max_skips=2")
    error = train_poisoned(one, STAGE, poison, monkeypatch.setattr)
    assert error is not None
    assert error.startswith("step 3: the loss is nan")
    assert "2 steps were left out before it" in error
    assert len(set(poison.states)) == 1  # neither the first nor the second changed anything


def test_the_count_goes_into_checkpoints() -> None:
    before, after = (NonFinite(NonFiniteConfig("skip")) for _ in range(2))
    before.num_skipped = 3
    after.load_state_dict(before.state_dict())
    assert after.num_skipped == 3


@pytest.mark.parametrize("words", [("action=ignore",), ("max_skips=-1",)])
def test_wrong_settings_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="non_finite"):
        recipe(tmp_path, *(f"trainer.non_finite.{word}" for word in words))


@pytest.mark.slow
@pytest.mark.parametrize(("action", "strategy"), [("stop", "ddp"), ("skip", "ddp"), ("skip", "fsdp")])
def test_ranks_decide_alike_where_one_has_the_nan(action: str, strategy: str, shapes: Path, tmp_path: Path) -> None:
    words = (f"trainer.strategy={strategy}", "trainer.devices=2", f"trainer.non_finite.action={action}")
    one = small(tmp_path, shapes, *words)
    save_recipe(one, tmp_path / "ranks.yaml")
    target = "tests.training.poisoned_runs:train_rank"
    # The second of two micro-batches of rank 1 in the second step
    done = launch(2, target, str(tmp_path / "ranks.yaml"), STAGE, "loss", "1", "3", str(tmp_path))
    assert done.returncode == 0, done.stdout
    notes = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert (notes[0]["states"] == notes[1]["states"]) == (strategy == "ddp")  # with fsdp each has its own slices
    first, second = notes[1]["samples"]
    said = f"step 2: the loss is nan from {first}, {second} (rank 1)"
    if action == "stop":
        assert len(notes[0]["states"]) == 2
        assert all(note["error"].startswith(said) for note in notes)
    else:
        for note in notes:
            begun, after_first, after_second, after_third = note["states"]
            assert begun != after_first == after_second != after_third
        assert [note["error"] for note in notes] == [None, None]
        assert done.stdout.count(said) == 1
