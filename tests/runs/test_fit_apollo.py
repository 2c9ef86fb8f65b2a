"""The shipped tiny Apollo recipe from files to answers. All stages, a text-only batch, resampled clips."""

import csv
import math
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.evaluation.ask import ask_trained
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.readers.shapes import shapes as read_shapes
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.models.checkpoint.load import load_weights
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import is_finished, stage_folder
from lightning_apollo.training.callbacks.export import WEIGHTS


def short(output: Path, *words: str) -> Recipe:
    """Two steps of eight samples a stage, of a set of eight clips."""
    steps = [
        f"stages.{stage}.{key}"
        for stage in ("connector_alignment", "vision_pretraining", "instruction_tuning")
        for key in ("max_steps=2", "global_batch_size=8", "micro_batch_size=4")
    ]
    small = ["data.shapes.num_clips=8", "data.shapes.num_held_out=2", "data.shapes.num_images=16"]
    settings = ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress_bar=false"]
    places = [f"output={output}", f"data.root={output / 'shapes'}"]
    return load_recipe("apollo-tiny", [*steps, *small, *settings, *places, *words])


def run(recipe: Recipe) -> None:
    """Every stage in this process, without the import of all packages that a process each costs."""
    assert recipe.data.shapes is not None
    shapes.render_shapes(recipe.data.shapes, Path(recipe.data.root))
    for name in recipe.stages:
        run_stage(recipe, name)


def weights(recipe: Recipe, stage: str) -> dict[str, torch.Tensor]:
    model = build_model(recipe.model, ReducerConfig())
    load_weights(model, stage_folder(recipe, stage) / WEIGHTS)
    return model.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = short(tmp_path_factory.mktemp("apollo"))
    run(recipe)
    return recipe


def test_stages_train_what_they_name_one_after_the_other(trained: Recipe) -> None:
    align, vision, tune = (weights(trained, name) for name in trained.stages)
    parts = {"vision": "vision_encoder.", "connector": "connector.", "llm": "llm."}
    for before, after, trains in ((align, vision, {"vision", "connector"}), (vision, tune, {"connector", "llm"})):
        for part, prefix in parts.items():
            names = [name for name in before if name.startswith(prefix)]
            assert any(not torch.equal(before[name], after[name]) for name in names) == (part in trains), part
    assert all(is_finished(trained, name) for name in trained.stages)


def test_the_log_has_losses_and_shares(trained: Recipe) -> None:
    for name in trained.stages:
        with (stage_folder(trained, name) / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        assert all(math.isfinite(float(row["loss"])) for row in rows)
        shares = [sum(float(row[f"share/{m}"]) for m in ("text", "image", "multi_image", "video")) for row in rows]
        assert shares == pytest.approx([1.0, 1.0])
        assert float(rows[0]["kept_share"]) == 1.0  # nothing drops tokens of clips
        if name == "vision_pretraining":
            assert float(rows[-1]["share/video"]) == 1.0


@pytest.mark.parametrize("visuals", ["full", "single_frame", "blind"])
def test_it_answers_what_it_is_asked(trained: Recipe, visuals: str) -> None:
    recipe = short(Path(trained.output), f"data.visuals={visuals}")
    root = Path(recipe.data.root)
    questions = list(read_shapes(root))[:6]
    first, again = ([p.answer for p in ask_trained(load_trained(recipe), questions, root)] for _ in range(2))
    assert len(first) == 6
    assert first == again
    num_tokens = {"full": 2 * 16, "single_frame": 16, "blind": 0}[visuals]
    prompt = build_prompt(questions[0], load_trained(recipe).preparer, root)
    assert int(prompt.is_placeholder.sum()) == num_tokens


@pytest.mark.parametrize(
    "words",
    [
        ("model.connector.kind=mlp_pool", "data.sampling.kind=uniform", "data.sampling.max_frames=4"),
        ("model.connector.kind=conv_pool", "data.clip_text.between=both", "data.clip_text.times=released"),
        ("model.fused.video=null", "data.sampling.kind=fps", "data.sampling.placement=released"),
    ],
)
def test_variants_are_values(words: tuple[str, ...], tmp_path: Path, trained: Recipe) -> None:
    recipe = short(tmp_path, *words, f"data.root={Path(trained.data.root)}")
    name = "connector_alignment"
    run_stage(recipe, name)
    assert is_finished(recipe, name)
