"""Finished stages stay: refusals, folders moved aside and no early writes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.files import is_locked
from lightning_apollo.recipe.schema import Recipe, RecipeError, save_recipe
from lightning_apollo.runs import fit
from lightning_apollo.runs.fit import run_recipe, run_stage
from lightning_apollo.runs.lock import sole_writer
from lightning_apollo.runs.stage_folder import is_finished, stage_folder
from lightning_apollo.runs.survey import again_by_itself
from tests.small_recipe import recipe

OWN_DATA = "data.shapes=null"  # the rendered files are a user's own
SHORT = ("stages.videos.max_steps=2",)


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below, with the content of files."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with media and rows in `data`, and in `out` both stages, finished."""
    folder = tmp_path_factory.mktemp("standing")
    shapes.render_shapes(shapes.ShapesConfig(num_clips=8, num_held_out=1, num_images=16), folder / "data")
    one = recipe(folder, OWN_DATA, f"data.root={folder / 'data'}", f"output={folder / 'out'}", *SHORT)
    for name in one.stages:
        run_stage(one, name)
    return folder


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(kept, tmp_path / "run", copy_function=os.link)
    return tmp_path / "run"


def small(run: Path, *words: str) -> Recipe:
    own = (OWN_DATA, f"data.root={run / 'data'}", f"output={run / 'out'}")
    return recipe(run.parent, *own, *SHORT, *words)


def cli(run: Path, *words: str) -> tuple[int, str]:
    small(run)  # writes the recipe's file
    own = (OWN_DATA, f"data.root={run / 'data'}", f"output={run / 'out'}", *SHORT)
    done = CliRunner().invoke(app, ["fit", str(run.parent / "test.yaml"), *own, *words])
    return done.exit_code, " ".join(done.output.split())


def rewrite(path: Path, text: str) -> None:
    """Write a file that other tests share by its links."""
    path.unlink()
    path.write_text(text)


def refused(one: Recipe, stage: str | None = None, **how: Any) -> str:
    before = tree(Path(one.output))
    with pytest.raises(RecipeError) as caught:
        run_recipe(one, stage, say=pytest.fail, **how)
    assert tree(Path(one.output)) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def commands_of(one: Recipe, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[list[str], list[list[str]]]:
    """Lines that a run says, and the words behind `fit` of the processes that it starts."""
    lines, commands = list[str](), list[list[str]]()

    def note(command: Sequence[str]) -> int:
        place = Path(command[4])
        assert not place.is_relative_to(one.output)
        assert place.is_file()
        commands.append([word for word in command[5:] if word != "--part-of-run"])
        return 0

    monkeypatch.setattr(fit, "run_passing_signals_on", note)
    run_recipe(one, say=lines.append, **how)
    return lines, commands


def test_the_same_written_otherwise_is_finished(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = run / "out" / "adapt" / "model.safetensors"
    os.utime(start)
    monkeypatch.chdir(run)
    same = small(run, "data.root=data/", "data.max_error_share=0.5", "stages.videos.activation_checkpointing=true")
    assert all(is_finished(same, name) for name in same.stages)
    lines, commands = commands_of(same, monkeypatch)
    assert not commands
    assert [line.split(":")[0] for line in lines] == [
        f"stage {name} is finished and not trained again" for name in same.stages
    ]


@pytest.mark.parametrize(
    ("words", "stage", "named", "why"),
    [
        (["seed=2"], None, "adapt", "seed was 1 and is 2"),
        (["seed=2"], "videos", "videos", "seed was 1 and is 2"),
        (["stages.videos.trains.llm=1e-4"], None, "videos", "stages.videos.trains.llm was 0.001 and is 0.0001"),
        (["stages.videos.init=ADAPT"], "videos", "videos", "the start weights changed"),
    ],
)
def test_other_settings_are_refused_in_a_line(
    run: Path, words: list[str], stage: str | None, named: str, why: str
) -> None:
    shutil.copytree(run / "out" / "videos", run / "other_start")
    line = refused(small(run, *(word.replace("ADAPT", str(run / "other_start")) for word in words)), stage)
    weights = run / "out" / named / "model.safetensors"
    assert re.match(rf"stage {named}\b.* \({re.escape(why)}\): .*{re.escape(str(weights))}\. ", line)
    assert re.search(rf" output=, .* --again={named}, .*{re.escape(str(weights.parent))} ", line)


def test_more_rows_in_the_same_file_are_other_data(run: Path) -> None:
    manifest = run / "data" / "image_captions.jsonl"
    rows = manifest.read_text()
    rewrite(manifest, rows + rows.splitlines()[0].replace('"id": "', '"id": "more ') + "\n")
    line = refused(small(run))
    assert re.match(r"stage adapt\b.*\(data of source images\b", line)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["data.root=nowhere", "data.manifests=[rows.jsonl]"], "rows.jsonl: "),
        (["data.root=EMPTY"], "image_captions.jsonl"),
        (
            ["--stage", "adapt", "stages.adapt.init=gone.safetensors"],
            "stages.adapt.init: gone.safetensors: ",
        ),
        (["--stage", "adapt", "--again", "data.root=EMPTY"], "image_captions.jsonl"),
        (["--stage", "adapt", "--again", "stages.adapt.init=BAD"], "bad.safetensors: "),
        (["--stage", "adapt", "--again", "stages.adapt.init=SMALL"], "missing"),
    ],
)
def test_a_slip_writes_nothing(run: Path, words: list[str], answer: str) -> None:
    (run.parent / "empty").mkdir()
    (run.parent / "bad.safetensors").write_bytes(b"cut short")
    places = {"EMPTY": run.parent / "empty", "BAD": run.parent / "bad.safetensors", "SMALL": run / "small.safetensors"}
    shutil.copy(run / "out" / "adapt" / "model.safetensors", places["SMALL"])
    if "SMALL" in words[-1]:
        words = [*words, "model.llm.num_layers=3"]
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    before = tree(run / "out")
    code, output = cli(run, *words)
    assert code == 2
    assert answer in output
    assert tree(run / "out") == before


def test_a_root_without_the_media_is_seen_before_anything_is_written(run: Path) -> None:
    elsewhere = run.parent / "rows"
    elsewhere.mkdir()
    for path in (run / "data").glob("*.jsonl"):
        shutil.copy(path, elsewhere)
    code, output = cli(run, f"data.root={elsewhere}", f"output={run / 'new'}", "--stage", "adapt")
    assert code == 2
    assert "source images: " in output
    assert not (run / "new" / "adapt").exists()
    code, output = cli(run, f"data.root={elsewhere}")
    assert code == 2
    assert "media of source images " in output


def test_weights_whose_data_are_gone_stay_finished_and_it_is_said(run: Path) -> None:
    one, lines = small(run), list[str]()
    for name in one.stages:
        rewrite(stage_folder(one, name) / "recipe.yaml", "")
        save_recipe(one, stage_folder(one, name) / "recipe.yaml")  # that of a run in this folder
    (run / "data").rename(run / "moved")
    run_recipe(one, say=lines.append)
    for name, line in zip(one.stages, lines, strict=True):
        weights = stage_folder(one, name) / "model.safetensors"
        assert line.startswith(
            f"stage {name} is finished and not trained again: {weights} (not compared with the recipe: "
        )


def test_a_stage_behind_one_that_is_gone_is_not_trained_over(run: Path) -> None:
    (run / "out" / "adapt").rename(run / "adapt_elsewhere")
    line = refused(small(run))
    assert re.match(r"stage videos\b.*\(adapt\b", line)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda done: {key: value for key, value in done.items() if key != "origin"},
            "trained by an earlier version, which did",
        ),
        (lambda done: [], "done.json cannot be read"),
        (None, "there is no done.json to say from what they were trained"),
    ],
    ids=["earlier version", "broken", "gone"],
)
def test_weights_of_unknown_origin_are_kept(run: Path, spoil: Any, why: str) -> None:
    done = run / "out" / "adapt" / "done.json"
    facts = json.loads(done.read_text())
    done.unlink()
    if spoil is not None:
        done.write_text(json.dumps(spoil(facts)))
    assert f"stage adapt has weights of another training ({why}" in refused(small(run))
    lines: list[str] = []
    assert again_by_itself(small(run), "the demo", lines.append) == ""
    assert lines[0].endswith("after it aside; the demo does the latter")


def test_again_moves_the_stage_and_all_after_it_aside(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run / "out"
    (out / "adapt" / "evaluation").mkdir()
    (out / "adapt" / "evaluation" / "report.md").write_text("0.93")
    (out / "videos.1").mkdir()  # a number counts for all
    before = tree(out)
    held: list[bool] = []
    callbacks = fit.stage_callbacks

    def note(one: Recipe, name: str) -> list[Any]:
        held.append(is_locked(out / "adapt.lock"))
        return callbacks(one, name)

    monkeypatch.setattr(fit, "stage_callbacks", note)
    code, output = cli(run, "seed=2", "--stage", "adapt", "--again")
    assert code == 0, output
    assert f"{out / 'adapt'} is now {out / 'adapt.2'}" in output
    after = tree(out)
    for path, content in before.items():
        stage, _, rest = path.partition("/")
        assert after[f"{stage}.2{f'/{rest}' * bool(rest)}" if stage != "videos.1" else path] == content
    assert {path.name for path in out.iterdir()} == {"adapt", "adapt.2", "videos.1", "videos.2"}
    assert held == [True]
    assert is_finished(small(run, "seed=2"), "adapt")
    assert not is_finished(small(run), "adapt")
    assert after["adapt/model.safetensors"] != before["adapt/model.safetensors"]


def test_what_again_begins_with(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slower = small(run, "stages.videos.trains.llm=1e-4")
    lines, commands = commands_of(slower, monkeypatch, again="")
    assert commands == [["--stage", "videos", "--again=videos"]]  # the first that is not finished
    assert lines[0].startswith("stage adapt is finished and not trained again")
    _, commands = commands_of(small(run), monkeypatch, again="", resume=True)  # none is another one: all
    assert commands == [["--stage", "adapt", "--resume", "--again=adapt"], ["--stage", "videos", "--resume"]]
    _, commands = commands_of(small(run), monkeypatch, again="videos")
    assert commands == [["--stage", "videos", "--again=videos"]]
    assert "stage adapt has weights of another training" in refused(small(run, "seed=2"), again="videos")
    assert "no stage video; it has adapt, videos" in refused(small(run), again="video")
    assert "leave it out, or set --again=adapt" in refused(small(run), "adapt", again="videos")


def test_a_checkpoint_is_kept_from_a_new_beginning(run: Path) -> None:
    out = run / "out"
    checkpoint = out / "adapt" / "checkpoints" / "step-00000001.ckpt"
    for name in ("done.json", "model.safetensors"):
        (out / "adapt" / name).unlink()
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"a day of training")
    for stage in (None, "adapt"):
        line = refused(small(run), stage)
        assert re.search(r"checkpoints .*step 1\b.*--resume.*--again=adapt", line)
    run_recipe(small(run), "adapt", again="", say=lambda line: None)
    assert (out / "adapt.1" / "checkpoints" / checkpoint.name).read_bytes() == b"a day of training"
    assert (out / "videos.1" / "model.safetensors").is_file()
    assert is_finished(small(run), "adapt")


def test_a_folder_that_another_process_writes_is_refused(run: Path) -> None:
    before = tree(run / "out")
    for words, locked in ((["--stage", "adapt", "seed=2", "--again"], "videos"), (["--stage", "videos"], "videos")):
        with sole_writer(run / "out" / locked, pytest.fail):
            path = run / "out" / f"{locked}.lock"
            code, output = cli(run, *words)
            assert code == 2
            assert f"{run / 'out' / locked} is being written by process {os.getpid()} on " in output
            path.unlink()
            assert tree(run / "out") == before
            path.touch()


def test_a_stage_that_packs_makes_no_index_before_its_start_is_seen(run: Path) -> None:
    packing = "stages.adapt.packing={max_llm_tokens: 600, max_patches: 2000, micro_batches: 2}"
    (run / "bad.safetensors").write_bytes(b"cut short")
    words = [packing, f"output={run / 'new'}", "--stage", "adapt", f"stages.adapt.init={run / 'bad.safetensors'}"]
    code, output = cli(run, *words)
    assert (code, "not a whole safetensors file" in output) == (2, True)
    assert not (run / "new" / "adapt").exists()


def test_run_stage_alone_keeps_what_is_finished(run: Path) -> None:
    one = small(run)
    before = tree(run / "out")
    lines: list[str] = []
    run_stage(one, "adapt", say=lines.append)
    assert lines == [f"stage adapt is finished and not trained again: {run / 'out' / 'adapt' / 'model.safetensors'}"]
    with pytest.raises(RecipeError, match=r"\bseed was 1\b.*\b2\b"):
        run_stage(replace(one, seed=2), "adapt")
    assert tree(run / "out") == before


@pytest.mark.slow
def test_a_second_fit_is_refused_and_what_a_killed_one_held_is_taken_over(run: Path) -> None:
    """Two real runs, the first with a loader process and a decoding one, which outlive it for a moment."""
    words = ["stages.adapt.max_steps=100000", "data.num_workers=1", "data.supervision={}", f"output={run / 'new'}"]
    one = small(run, *words)
    save_recipe(one, run / "long.yaml")
    command = [sys.executable, "-m", "lightning_apollo", "fit", str(run / "long.yaml"), "--stage", "adapt"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            metrics = run / "new" / "adapt" / "metrics.csv"
            deadline = time.monotonic() + 200
            while not metrics.is_file() and time.monotonic() < deadline:
                time.sleep(0.2)
            with pytest.raises(RecipeError, match=rf"\badapt\b.*\bprocess {process.pid} on "):
                run_stage(one, "adapt")
        finally:
            process.kill()
        process.wait()
        short = small(run, f"output={run / 'new'}")
        run_stage(short, "adapt")
    assert is_finished(short, "adapt")
