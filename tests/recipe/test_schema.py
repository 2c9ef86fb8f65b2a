"""The shipped recipes against the papers, and refused contradictions."""

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
        ("compat=apolo", "compat is one of videollama3, apollo, not 'apolo'"),
        ("compat=apollo", "compat apollo does not go with an encoder of frames (model.vision)"),
        (
            "data.sampling.kind=clips",
            'data.sampling.kind is "clips", but the model takes frames: choose "fps" or "uniform"',
        ),
        (
            "stages.multi_task_fine_tuning.max_clips=3",
            "stages.multi_task_fine_tuning: max_clips is for encoders of clips",
        ),
        (
            "stages.multi_task_fine_tuning.mixture={video_q: 1}",
            "stages.multi_task_fine_tuning.mixture.video_q: no such source, did you mean video_qa?",
        ),
        (
            "stages.multi_task_fine_tuning.kind=MultiTask",
            "stages.multi_task_fine_tuning: no stage is called MultiTask; did you mean MultiTaskFineTuning?",
        ),
        (
            "stages.multi_task_fine_tuning.micro_batch_size=7",
            "stages.multi_task_fine_tuning: global_batch_size 48 is no multiple of micro_batch_size 7",
        ),
        (
            "stages.multi_task_fine_tuning.reducer.kind=diff",
            "stages.multi_task_fine_tuning.reducer: reducer.kind is one of none, diff_fp, merge_similar, not 'diff'",
        ),
        ("trainer.precision=16", "trainer: precision is one of 32-true, bf16-mixed, bf16-true, 64-true, not '16'"),
        ("trainer.devices=all", "trainer: devices is a number from 1 on or auto, not 'all'"),
    ],
)
def test_values_that_do_not_go_together_are_refused_at_load(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("videollama3-tiny", [word])
    assert str(error.value).endswith(f"videollama3-tiny.yaml: {message}")


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
    with pytest.raises(RecipeError, match="stages: a recipe has at least one"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "videollama3-tyni",
            "videollama3-tyni: neither a .yaml file nor a recipe's name, did you mean videollama3-tiny?",
        ),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
    ],
)
def test_an_unknown_recipe_is_one_line(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert str(error.value) == message


def test_recipes_cannot_be_written_to() -> None:
    recipe: Recipe = load_recipe("videollama3-tiny")
    with pytest.raises(AttributeError):
        recipe.seed = 1  # type: ignore[misc]  # the assignment is what is tested


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.connector.kind=mlp", "model: connector.kind mlp does not go with the encoder `fused`"),
        (
            "data.sampling.clip_frames=8",
            "data.sampling.clip_frames is 8, but the model takes clips of 4 frames: make them equal",
        ),
        (
            "stages.instruction_tuning.video_merge_size=2",
            "stages.instruction_tuning: merge sizes are 1 where the encoder takes clips",
        ),
        (
            "stages.instruction_tuning.reducer.kind=diff_fp",
            "stages.instruction_tuning: reducer.kind is none where the encoder takes clips",
        ),
        ("model.fused.video.select_layer=0", "model.fused.video: select_layer counts from the end, -1 to -40, not 0"),
        (
            "model.fused.video.kind=internvideo",
            "model.fused.video: tower kind is one of siglip, internvideo2, vjepa2, videomae, not 'internvideo'",
        ),
    ],
)
def test_clips_that_do_not_go_together_are_refused_at_load(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("apollo-3b", [word])
    assert str(error.value).endswith(f"apollo-3b.yaml: {message}")
