"""Three real clips through the data path, a training step and the report. `make test` unpacks them into .cache."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media.video import probe
from lightning_apollo.inference.generate import generate
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.pages.report import Exchange, read_losses, view_clip, write_report
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.structures import VisualBatch
from tests.places import ROOT
from tests.small_data import turns, write_rows

CLIPS = ROOT / ".cache" / "real_clips"
NAMES = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")
STAGE = "video_centric_fine_tuning"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The tiny recipe on the real clips: two steps of stage 4, from random weights."""
    folder = tmp_path_factory.mktemp("real")
    rows = [{"video": name, "conversations": turns("<video>\nWhat is shown?", name.split(".")[0])} for name in NAMES]
    manifest = write_rows(folder / "clips.jsonl", rows * 2)
    words = [f"data.manifests=[{manifest}]", f"data.root={CLIPS}", f"output={folder / 'run'}"]
    words += ["data.budget.token_budget=256", "data.budget.max_length=1024", "trainer.progress_bar=false"]
    stage = ["max_steps=2", "global_batch_size=3", "micro_batch_size=3"]
    recipe = load_recipe("videollama3-tiny", words + [f"stages.{STAGE}.{word}" for word in stage])
    return replace(recipe, stages={STAGE: recipe.stages[STAGE]})  # alone, so that it starts from random weights


def test_the_clips_are_there_and_real() -> None:
    infos = {name: probe(CLIPS / name) for name in NAMES}
    assert all(info.num_frames > 100 and info.duration_seconds > 4 for info in infos.values())
    assert len({(info.height, info.width) for info in infos.values()}) > 1


def test_a_step_and_a_report(recipe: Recipe, tmp_path: Path) -> None:
    run_stage(recipe, STAGE)
    losses = read_losses([stage_folder(recipe, STAGE) / "metrics.csv"])
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    trained = load_trained(recipe)
    data = build_data(recipe, STAGE)
    data.setup("fit")
    views = []
    for row, name in enumerate(NAMES):
        conversation = data.sources[0][row]
        prompt = trained.preparer.prompt(conversation, CLIPS)
        (item,) = prompt.visuals
        assert item.num_visual_tokens(prompt.patch_size) <= 256
        assert torch.equal(item.frames.pts_seconds, item.frames.pts_seconds.sort().values)
        (answer,) = generate(trained.model, [prompt], end_id=-1, max_new_tokens=2)
        exchange = Exchange("What is shown?", str(trained.tokenizer.decode(answer)))
        _, reduction = trained.model.encode(VisualBatch.from_items(prompt.visuals, prompt.patch_size))
        views.append(view_clip(name, prompt, reduction.keep_mask, [exchange]))
    write_report(tmp_path / "report.html", title="Real clips", facts={}, clips=views)
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in NAMES)
    assert len(re.findall("data:image/png;base64,", page)) == sum(len(view.frames) for view in views) >= 12
    assert all(view.num_kept > 0.9 * view.num_tokens for view in views)  # natural video: almost no block stands still
