"""The shipped recipes against the papers, and refused contradictions."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.recipe.conf import conf_folder, recipe_names
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe, save_recipe

STAGES = [
    "vision_encoder_adaptation",
    "vision_language_alignment",
    "multi_task_fine_tuning",
    "video_centric_fine_tuning",
]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_loads_and_survives_being_saved(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert (recipe.name, recipe.output) == (name, f"runs/{name}")
    if name.startswith("videollama3"):
        assert list(recipe.stages) == STAGES
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_every_yaml_file_of_the_library_is_part_of_a_recipe() -> None:
    """Or made to be put into a base, and its first lines say so: mixtures (tested with their reader) and towers."""
    files = {path.relative_to(conf_folder()).with_suffix("").as_posix() for path in conf_folder().glob("*/*.yaml")}
    text = "".join(path.read_text() for path in conf_folder().glob("*/*.yaml"))
    assert not {name for name in files if not name.startswith(("recipe/", "study/", "mixture/")) and name not in text}


@pytest.mark.parametrize("tower", ["vjepa2", "videomae"])
def test_another_video_tower_is_one_line(tower: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"base: [recipe/apollo-3b, model/tower_{tower}]\nname: mine\n")
    fused = load_recipe(recipe).model.fused
    assert fused is not None
    assert fused.video is not None
    assert (fused.video.kind, fused.width) == (tower, 1152 + 1024)
    alone = load_recipe("apollo-3b", ["model.fused.video=null"]).model.fused
    assert alone is not None
    assert list(alone.towers) == ["image"]


@pytest.mark.parametrize("name", ["videollama3-2b", "videollama3-7b"])
def test_the_stages_train_what_the_paper_says(name: str) -> None:
    recipe = load_recipe(name)
    joint = {"vision": 2e-6, "connector": 1e-5, "llm": 1e-5}
    expected = {  # rates, merge of images and videos, reduction: VideoLLaMA 3, tables 1 to 4 and §3.3
        "vision_encoder_adaptation": ({"vision": 1e-5, "connector": 1e-3}, 1, 2, "none"),
        "vision_language_alignment": (joint, 1, 2, "none"),
        "multi_task_fine_tuning": (joint, 1, 2, "diff_fp"),
        "video_centric_fine_tuning": (joint, 2, 2, "diff_fp"),
    }
    for stage_name, stage in recipe.stages.items():
        found = (stage.trains, stage.image_merge_size, stage.video_merge_size, stage.reducer.kind)
        assert found == expected[stage_name]
        assert (stage.reducer.threshold_grey_levels, stage.reducer.reference) == (0.05, "previous")
        assert (stage.global_batch_size, stage.micro_batch_size, stage.epochs, stage.max_steps) == (128, 2, 1, -1)
        assert (stage.optimizer.warmup_ratio, stage.optimizer.weight_decay) == (0.03, 0.0)
        assert (stage.optimizer.betas, stage.optimizer.eps) == ([0.9, 0.999], 1e-8)
        assert set(stage.mixture.values()) == {1.0}
    assert [len(stage.mixture) for stage in recipe.stages.values()] == [3, 6, 8, 5]  # the rows of the four tables
    assert (recipe.data.sampling.kind, recipe.data.sampling.fps, recipe.data.sampling.max_frames) == ("fps", 1.0, 180)
    assert (recipe.data.budget.token_budget, recipe.data.budget.max_length) == (10_240, 16_384)


def test_manifests_take_the_place_of_every_source() -> None:
    words = ["data.manifests=[a.json,b.jsonl]", "data.root=videos", "output=elsewhere"]
    recipe = load_recipe("videollama3-tiny", words)
    assert recipe.data.sources == {"custom": SourceConfig(manifests=["a.json", "b.jsonl"], root="videos")}
    assert recipe.data.shapes is None
    assert [stage.mixture for stage in recipe.stages.values()] == [{"custom": 1.0}] * 4
    assert recipe.output == "elsewhere"


def test_manifests_of_a_saved_recipe_keep_a_changed_mixture(tmp_path: Path) -> None:
    recipe = load_recipe("videollama3-tiny", ["data.manifests=[a.json]"])
    stages = {name: replace(stage, mixture={"custom": 0.5}) for name, stage in recipe.stages.items()}
    recipe = replace(recipe, stages=stages)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_folders_of_conf_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("videollama3-tiny")
    assert (Path(recipe.model.llm.tokenizer) / "tokenizer.json").is_file()
    assert load_recipe("videollama3-2b").model.llm.tokenizer == "Qwen/Qwen2.5-1.5B-Instruct"


def test_a_recipe_of_ones_own_builds_on_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: [recipe/videollama3-tiny]\nname: mine\nseed: 3\n")
    tiny = load_recipe("videollama3-tiny")
    assert load_recipe("mine.yaml") == replace(tiny, name="mine", output="runs/mine", seed=3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("compat=apolo", r"compat .*videollama3, apollo.*'apolo'$"),
        ("compat=apollo", r"compat apollo .*\(model\.vision\)$"),
        (
            "data.sampling.kind=clips",
            r'data\.sampling\.kind .*"clips".*"fps".*"uniform"$',
        ),
        (
            "stages.multi_task_fine_tuning.max_clips=3",
            r"stages\.multi_task_fine_tuning: max_clips ",
        ),
        (
            "stages.multi_task_fine_tuning.mixture={video_q: 1}",
            r"stages\.multi_task_fine_tuning\.mixture\.video_q: .*\bvideo_qa\b",
        ),
        (
            "stages.multi_task_fine_tuning.kind=MultiTask",
            r"stages\.multi_task_fine_tuning: .*\bMultiTask; .*\bMultiTaskFineTuning\b",
        ),
        (
            "stages.multi_task_fine_tuning.micro_batch_size=7",
            r"stages\.multi_task_fine_tuning: global_batch_size 48 .*micro_batch_size 7$",
        ),
        (
            "stages.multi_task_fine_tuning.reducer.kind=diff",
            r"stages\.multi_task_fine_tuning\.reducer: reducer\.kind .*none, diff_fp, merge_similar.*'diff'$",
        ),
        ("trainer.precision=16", r"trainer: precision .*32-true, bf16-mixed, bf16-true, 64-true.*'16'$"),
        ("trainer.devices=all", r"trainer: devices .*\b1\b.*auto.*'all'$"),
    ],
)
def test_values_that_do_not_go_together_are_refused_at_load(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("videollama3-tiny", [word])
    assert re.search(rf"videollama3-tiny\.yaml: {message}", str(error.value))


@pytest.mark.parametrize("key", ["trains.lm=1", "trains={lm: 1e-5}"])
def test_a_stage_trains_only_components_that_exist(key: str) -> None:
    with pytest.raises(RecipeError, match="lm"):
        load_recipe("videollama3-tiny", [f"stages.multi_task_fine_tuning.{key}"])


def test_the_budget_leaves_room_for_text() -> None:
    with pytest.raises(RecipeError, match=r"data\.budget: .*max_length"):
        load_recipe("videollama3-tiny", ["data.budget.token_budget=100000"])


def test_no_stage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("base: [model/tiny]\nname: none\ndata: {}\nstages: {}\n")
    with pytest.raises(RecipeError, match=r"stages: .*one"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "videollama3-tyni",
            r"^videollama3-tyni: .*\bvideollama3-tiny\b",
        ),
        ("nowhere.yaml", r"^nowhere\.yaml: .*file$"),
    ],
)
def test_an_unknown_recipe_is_one_line(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert re.fullmatch(rf"{message}.*", str(error.value))


def test_recipes_cannot_be_written_to() -> None:
    recipe: Recipe = load_recipe("videollama3-tiny")
    with pytest.raises(AttributeError):
        recipe.seed = 1  # type: ignore[misc]  # the assignment is what is tested


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.connector.kind=mlp", r"model: connector\.kind mlp .*`fused`$"),
        (
            "data.sampling.clip_frames=8",
            r"data\.sampling\.clip_frames .*\b8, .*\b4 frames",
        ),
        (
            "stages.instruction_tuning.video_merge_size=2",
            r"stages\.instruction_tuning: merge sizes .*\b1 .*clips$",
        ),
        (
            "stages.instruction_tuning.reducer.kind=diff_fp",
            r"stages\.instruction_tuning: reducer\.kind .*\bnone .*clips$",
        ),
        ("model.fused.video.select_layer=0", r"model\.fused\.video: select_layer .*-1 to -40.*\b0$"),
        (
            "model.fused.video.kind=internvideo",
            r"model\.fused\.video: .*kind .*siglip, internvideo2, vjepa2, videomae.*'internvideo'$",
        ),
    ],
)
def test_clips_that_do_not_go_together_are_refused_at_load(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("apollo-3b", [word])
    assert re.search(rf"apollo-3b\.yaml: {message}", str(error.value))
