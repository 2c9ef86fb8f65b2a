"""Resumption after a stop: equal weights and every sample once, or a refusal."""

import csv
import hashlib
import json
import shutil
import signal
import subprocess
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs import fit
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import resume_checkpoint, stage_folder
from tests.small_recipe import recipe
from tests.stopped_runs import Stopped, read_notes, with_notes
from tests.warm import warm

STAGE = "videos"
# Five steps of four micro-batches over more than one epoch, with dropout, a checkpoint after each second step
WORDS = (
    f"stages.{STAGE}.max_steps=5",
    "model.llm.attention_dropout=0.3",
    "trainer.checkpoint.every_n_steps=2",
    "data.shapes.num_clips=6",
)
PACKED = (
    f"stages.{STAGE}.packing.max_llm_tokens=600",
    f"stages.{STAGE}.packing.max_patches=2000",
    f"stages.{STAGE}.packing.micro_batches=4",
)


def small(folder: Path, *words: str) -> Recipe:
    """The recipe with its second stage alone, which so begins from random weights."""
    one = recipe(folder, *WORDS, *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


def digest(one: Recipe) -> str:
    return hashlib.sha256((stage_folder(one, STAGE) / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in set is rendered once."""
    return tmp_path_factory.mktemp("resume") / "shapes"


def train(
    one: Recipe, notes: Path, monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 0, resume: bool = False
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit, "stage_callbacks", with_notes(notes, stop_after))
        if stop_after:
            with pytest.raises(Stopped):
                run_stage(one, STAGE, resume)
        else:
            run_stage(one, STAGE, resume)


def run_ranks(one: Recipe, notes: Path, stop_after: int, how: str) -> int:
    path = Path(one.output) / "ranks.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_recipe(one, path)
    command = warm("-m", "tests.stopped_runs", str(path), STAGE, str(notes), str(stop_after), how)
    return subprocess.run(["timeout", "-k", "5", "150", *command], check=False).returncode


def metrics(one: Recipe) -> list[dict[str, str]]:
    with (stage_folder(one, STAGE) / "metrics.csv").open(newline="") as file:
        timings = ("tokens_per_second", "time/")
        return [{k: v for k, v in row.items() if not k.startswith(timings)} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "words",
    [(), PACKED, pytest.param(("trainer.precision=bf16-true",), marks=pytest.mark.slow)],
    ids=["counted", "packed", "bfloat16"],
)
def test_a_stopped_stage_ends_in_the_same_weights(
    shapes: Path, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"data.root={shapes}"
    whole, stopped = (small(tmp_path, root, *words, f"output={tmp_path / name}") for name in ("whole", "stopped"))
    train(whole, tmp_path / "notes" / "whole", monkeypatch)
    train(stopped, tmp_path / "notes" / "before", monkeypatch, stop_after=3)  # the last checkpoint is that of step 2
    workers = small(tmp_path, root, *words, f"output={tmp_path / 'stopped'}", "data.num_workers=2")
    train(workers, tmp_path / "notes" / "after", monkeypatch, resume=True)
    assert digest(stopped) == digest(whole)
    assert metrics(stopped) == metrics(whole)
    expected = [note for note in read_notes(tmp_path / "notes" / "whole") if note[0] >= 2]
    assert read_notes(tmp_path / "notes" / "after") == expected
    assert not (stage_folder(stopped, STAGE) / "checkpoints").exists()  # the stage is finished


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_run_on_two_ranks_resumes_with_two_and_with_one(strategy: str, shapes: Path, tmp_path: Path) -> None:
    """With as many ranks to the same bits, with one to the same samples; what is left is left to whoever resumes, once."""
    root = f"data.root={shapes}"
    ranks, one_rank = ((f"trainer.strategy={strategy}", f"trainer.devices={number}") for number in (2, 1))
    whole, stopped, two = (
        small(tmp_path, root, *ranks, f"output={tmp_path / name}") for name in ("whole", "stopped", "two")
    )
    assert run_ranks(whole, tmp_path / "notes" / "whole", 0, "begin") == 0
    assert run_ranks(stopped, tmp_path / "notes" / "before", 3, "begin") == -signal.SIGKILL
    for copy in ("two", "one"):
        shutil.copytree(stage_folder(stopped, STAGE), tmp_path / copy / STAGE)
    assert run_ranks(two, tmp_path / "notes" / "two", 0, "resume") == 0
    assert digest(two) == digest(whole)
    one = small(tmp_path, root, *one_rank, f"output={tmp_path / 'one'}")
    assert run_ranks(one, tmp_path / "notes" / "one", 0, "resume") == 0
    trained_before = [samples for step, samples in read_notes(tmp_path / "notes" / "before") if step < 2]
    expected = Counter(chain.from_iterable(samples for _, samples in read_notes(tmp_path / "notes" / "whole")))
    for name in ("two", "one"):
        after = [samples for _, samples in read_notes(tmp_path / "notes" / name)]
        assert len(after) == 12  # three steps of four micro-batches, and nothing of what came before
        assert Counter(chain.from_iterable([*trained_before, *after])) == expected
    steps = json.loads((stage_folder(one, STAGE) / "done.json").read_text())["steps"]
    assert steps == 5


@pytest.fixture(scope="module")
def stopped(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A stage that was stopped after its third step."""
    folder = tmp_path_factory.mktemp("stopped")
    one = small(folder, f"data.root={shapes}")
    with pytest.MonkeyPatch.context() as patch:
        train(one, folder / "notes", patch, stop_after=3)
    return one


def test_a_stopped_stage_is_not_begun_again_by_mistake(stopped: Recipe) -> None:
    with pytest.raises(RecipeError, match=rf"2\b.*--resume.*--again={STAGE}"):
        run_stage(stopped, STAGE)


def test_other_settings_are_refused_and_named(stopped: Recipe, shapes: Path) -> None:
    output = Path(stopped.output)
    other = small(output, f"data.root={shapes}", f"stages.{STAGE}.trains.llm=1e-4", "seed=2")
    with pytest.raises(RecipeError, match=rf"{STAGE}.*llm.*0\.001.*0\.0001"):
        run_stage(other, STAGE, resume=True)
    elsewhere = small(output, f"data.root={shapes}", "trainer.devices=1", "data.num_workers=1", "trainer.threads=2")
    assert resume_checkpoint(elsewhere, STAGE, resume=True) is not None  # machines are no settings


def test_other_start_weights_are_refused(stopped: Recipe) -> None:
    path = stage_folder(stopped, STAGE) / "checkpoints" / "begun.json"
    before = path.read_text()
    begun = json.loads(before)
    path.write_text(json.dumps({**begun, "origin": {**begun["origin"], "start": "another"}}))
    try:
        with pytest.raises(RecipeError, match=rf"\b{STAGE}\b.*start weights"):
            run_stage(stopped, STAGE, resume=True)
        path.write_text(json.dumps({"settings": {}, "started_from": None}))  # what an earlier version wrote
        with pytest.raises(RecipeError, match=r"checkpoints.*version"):
            run_stage(stopped, STAGE, resume=True)
    finally:
        path.write_text(before)


def test_other_data_are_refused(stopped: Recipe, shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped"
    shutil.copytree(stopped.output, output)
    manifest = shapes / "video_qa.jsonl"
    before = manifest.read_text()
    manifest.write_text(before.replace("red", "blue", 1))
    try:
        with pytest.raises(RecipeError, match=r"data of source videos\b"):
            run_stage(small(tmp_path, f"data.root={shapes}", f"output={output}"), STAGE, resume=True)
    finally:
        manifest.write_text(before)


def test_a_stage_without_a_checkpoint_begins(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = small(
        tmp_path, f"data.root={shapes}", f"stages.{STAGE}.max_steps=1", f"stages.{STAGE}.optimizer.warmup_ratio=0"
    )
    unfinished = stage_folder(one, STAGE) / "checkpoints" / "step-00000002.partial"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"killed in the middle")
    train(one, tmp_path / "notes", monkeypatch, resume=True)
    assert {step for step, _ in read_notes(tmp_path / "notes")} == {0}
