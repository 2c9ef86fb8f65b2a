"""Recipes end to end on rendered clips: files, weights and two processes against one."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe, save_recipe
from lightning_apollo.runs.fingerprint import read_origin
from lightning_apollo.runs.fit import run_recipe, run_stage
from lightning_apollo.runs.stage_folder import is_finished, stage_folder
from tests.small_recipe import recipe


def metrics(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Both stages, each in its own process."""
    one = recipe(tmp_path_factory.mktemp("trained"))
    run_recipe(one)
    return one


def test_every_stage_leaves_its_files(trained: Recipe) -> None:
    for name, steps in (("adapt", 2), ("videos", 3)):
        folder = stage_folder(trained, name)
        assert {path.name for path in folder.iterdir()} >= {
            "recipe.yaml",
            "metrics.csv",
            "tensorboard",
            "model.safetensors",
        }
        assert load_recipe(folder / "recipe.yaml") == trained
        done = json.loads((folder / "done.json").read_text())
        rows = metrics(folder)
        assert done["steps"] == len(rows) == steps
        assert done["loss"] == pytest.approx(rows[-1]["loss"])
        assert [row["step"] for row in rows] == list(range(steps))


def test_a_row_has_loss_rates_tokens_and_speed(trained: Recipe) -> None:
    row = metrics(stage_folder(trained, "videos"))[-1]
    assert row.keys() >= {"loss", "grad_norm", "text_tokens", "visual_tokens", "kept_share", "tokens_per_second"}
    assert {key for key in row if key.startswith("lr/")} == {"lr/vision", "lr/connector", "lr/llm"}
    assert 0.0 < row["kept_share"] < 1.0  # the clips stand still most of the time
    assert {key for key in metrics(stage_folder(trained, "adapt"))[0] if key.startswith("lr/")} == {
        "lr/vision",
        "lr/connector",
    }


def test_a_stage_starts_from_the_weights_before_it_and_keeps_frozen_ones(trained: Recipe) -> None:
    adapt, videos = (load_file(stage_folder(trained, name) / "model.safetensors") for name in ("adapt", "videos"))
    assert adapt.keys() == videos.keys()
    moved = {name for name in adapt if not torch.equal(adapt[name], videos[name])}
    assert moved == adapt.keys()  # all components train in the second stage
    again = replace(trained, output=f"{trained.output}/again", seed=trained.seed)
    run_stage(again, "adapt")
    repeated = load_file(stage_folder(again, "adapt") / "model.safetensors")
    assert all(torch.equal(adapt[name], repeated[name]) for name in adapt)  # the same run twice: the same weights


def test_finished_stages_are_not_trained_again(trained: Recipe) -> None:
    files = [stage_folder(trained, name) / "model.safetensors" for name in trained.stages]
    before = [path.stat().st_mtime_ns for path in files]
    lines: list[str] = []
    run_recipe(trained, say=lines.append)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert lines == [
        f"stage {name} is finished and not trained again: {path}"
        for name, path in zip(trained.stages, files, strict=True)
    ]


def test_a_stage_is_finished_only_with_these_settings_and_these_weights_before_it(trained: Recipe) -> None:
    assert is_finished(trained, "videos")
    assert not is_finished(replace(trained, seed=2), "videos")
    assert is_finished(replace(trained, data=replace(trained.data, num_workers=4)), "videos")
    slower = replace(trained.stages["videos"], trains={"vision": 1e-4, "connector": 1e-3, "llm": 1e-3})
    changed = replace(trained, stages={**trained.stages, "videos": slower})
    assert is_finished(changed, "adapt")
    assert not is_finished(changed, "videos")
    weights = stage_folder(trained, "adapt") / "model.safetensors"
    kept = weights.read_bytes()
    weights.touch()
    assert is_finished(trained, "videos")  # what they hold counts
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))  # as another training of the first stage would
    assert is_finished(trained, "adapt")
    assert not is_finished(trained, "videos")
    weights.write_bytes(kept)


def test_a_failing_stage_ends_the_run_with_its_exit_code(trained: Recipe, tmp_path: Path) -> None:
    trainer = replace(trained.trainer, devices="3")  # which do not divide a step
    with pytest.raises(SystemExit) as caught:
        run_recipe(replace(trained, output=str(tmp_path), trainer=trainer), say=lambda line: None)
    assert caught.value.code == 2


def test_an_epoch_of_one_step_is_refused_where_the_warm_up_leaves_it_no_rate(trained: Recipe, tmp_path: Path) -> None:
    words = (f"data.root={trained.data.root}", "stages.adapt.max_steps=-1", "stages.adapt.global_batch_size=16")
    recipe(tmp_path, *words)  # loads: how many steps there are is not known yet
    command = ["fit", str(tmp_path / "test.yaml"), "--stage", "adapt", *words]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert (result.exit_code, len(result.output.strip().splitlines())) == (2, 1), result.output
    assert "optimizer.warmup_ratio=0" in result.output
    assert not (tmp_path / "adapt" / "model.safetensors").exists()


def test_the_loss_falls_on_one_clip(trained: Recipe, tmp_path: Path) -> None:
    row = (Path(trained.data.root) / "video_qa.jsonl").read_text().splitlines()[0]
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(row + "\n")
    words = [f"data.manifests=[{manifest}]", f"data.root={trained.data.root}", "stages.videos.max_steps=40"]
    words += [f"stages.videos.{size}_batch_size=1" for size in ("global", "micro")]
    one = recipe(tmp_path, *words)
    stage = replace(one.stages["videos"], trains={"vision": 1e-2, "connector": 1e-2, "llm": 1e-2})
    run_stage(replace(one, stages={"videos": stage}), "videos")
    losses = [row["loss"] for row in metrics(tmp_path / "videos")]
    assert losses[-1] < 0.2 * losses[0]


def test_two_processes_equal_one(trained: Recipe, tmp_path: Path) -> None:
    words = (f"data.root={trained.data.root}", "trainer.precision=64-true")
    (tmp_path / "one").mkdir()
    one = recipe(tmp_path / "one", *words, f"stages.videos.init={stage_folder(trained, 'adapt')}")
    run_stage(one, "videos")
    two = replace(
        one,
        output=str(tmp_path / "two"),
        trainer=replace(one.trainer, devices="2", strategy="ddp"),
    )
    assert read_origin(one, "videos") == read_origin(two, "videos")
    save_recipe(two, tmp_path / "two.yaml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "lightning_apollo", "fit", str(tmp_path / "two.yaml"), "--stage", "videos"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=240, env=environment, capture_output=True)
    a, b = (load_file(stage_folder(run, "videos") / "model.safetensors") for run in (one, two))
    for name, weights in a.items():
        torch.testing.assert_close(b[name], weights, rtol=1e-7, atol=1e-9, msg=name)
    for row, other in zip(metrics(stage_folder(one, "videos")), metrics(stage_folder(two, "videos")), strict=True):
        same = ("loss", "grad_norm", "text_tokens", "visual_tokens", "kept_share", "lr/llm")
        assert [other[key] for key in same] == pytest.approx([row[key] for key in same], rel=1e-6)


def test_torchrun_takes_one_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"--stage NAME.*adapt, videos"):
        run_recipe(recipe(tmp_path))


def test_what_a_recipe_gets_wrong_is_one_line(tmp_path: Path) -> None:
    one = recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"\btest .*stage video\b.*adapt, videos"):
        run_recipe(one, "video")
    with pytest.raises(RecipeError, match=r"stage videos .*adapt/model\.safetensors\b"):
        run_stage(one, "videos")
    three_ranks = replace(one, trainer=replace(one.trainer, devices="3"))
    with pytest.raises(RecipeError, match=r"stages\.adapt: global_batch_size 8.*12"):
        run_stage(three_ranks, "adapt")
