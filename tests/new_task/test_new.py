"""`lightning-apollo new` on data made by hand: findings, written recipe and its training."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.new_task.new import STAGE, NewRecipe, Task, write_recipe
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from tests.media_files import write_clip
from tests.small_data import turns, write_rows
from tests.weights import stages

Row = dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny model with its stages finished: at most 8 frames, 64 visual tokens, 512 in all."""
    return stages.videollama3(tmp_path_factory.mktemp("run"), system_prompt="Be brief.")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 160×48 pixels, four seconds and one, and a picture."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "four.mp4", 40, 10)
    write_clip(folder / "one.mp4", 10, 10)
    (folder / "broken.mp4").write_text("no video")
    Image.new("RGB", (56, 28)).save(folder / "picture.png")
    return folder


def video_row(name: str = "four.mp4", answer: str = "A number.", **fields: object) -> Row:
    return {"video": name, "conversations": turns("<video>\nWhat is shown?", answer), **fields}


def image_row() -> Row:
    return {"image": "picture.png", "conversations": turns("<image>\nWhat is it?", "A picture.")}


def new(
    folder: Path, media: Path, rows: list[Row], start: Recipe | None = None, template: str | None = None
) -> NewRecipe:
    """Written for these rows, in this process."""
    data = write_rows(folder / "rows.jsonl", rows)
    weights = None if start is None else str(stage_folder(start, "videos"))
    task = Task("task", (str(data),), str(media), weights, template)
    return write_recipe(task, folder / "task.yaml", lambda: nullcontext(lambda *_: None), jobs=0)


def test_it_counts_what_the_data_hold(tmp_path: Path, media: Path) -> None:
    rows = [
        *(video_row(), video_row("one.mp4"), video_row(start_time=1.0, end_time=2.5), image_row()),
        *(
            {"conversations": turns("Why?", "So.")},
            video_row("broken.mp4"),
            video_row("missing.mp4"),
            {"text": "no turns"},
        ),
    ]
    found = new(tmp_path, media, rows).survey
    assert found.kinds == {"text": 1, "image": 1, "multi_image": 0, "video": 3}
    assert (found.num_videos, found.num_images, found.num_broken_files, found.num_broken) == (2, 1, 2, 3)
    assert [round(seconds, 1) for seconds in found.shown_seconds] == [4.0, 1.0, 1.5]
    assert sorted(map(tuple, found.sizes.tolist())) == [(56, 28), (160, 48), (160, 48)]
    assert [(row.row, Path(row.path).name) for row in found.broken] == [(6, "broken.mp4"), (7, "missing.mp4"), (8, "")]
    assert (found.example.prompt, found.example.media[0].path) == ("What is shown?", "four.mp4")


def test_a_recipe_for_rows_with_keys_that_are_not_read_ignores_them_where_that_is_asked_for(
    tmp_path: Path, media: Path
) -> None:
    data = str(write_rows(tmp_path / "rows.jsonl", [video_row(objects={"bbox": [1]})] * 2))
    path = tmp_path / "task.yaml"
    with pytest.raises(RecipeError, match=r"\b2 rows.*'objects'"):
        write_recipe(Task("task", (data,), str(media)), path, lambda: nullcontext(lambda *_: None), jobs=0)
    task = Task("task", (data,), str(media), unknown_keys="ignore")
    written = write_recipe(task, path, lambda: nullcontext(lambda *_: None), jobs=0)
    assert load_recipe(path).data.unknown_keys == "ignore"
    assert written.survey.num_broken == 0


def test_settings_fit_the_data(tmp_path: Path, media: Path) -> None:
    """By hand: 160×48 pixels are 6×2 tokens of 28 pixels, fewer than the 16 that a frame has at least: 8×3 then."""
    written = new(tmp_path, media, [video_row()] * 10)
    recipe = load_recipe(written.path)
    assert recipe == written.recipe
    assert (recipe.data.sampling.fps, recipe.data.sampling.max_frames) == (2.0, 8)  # 4 s at 1 a second are too few
    assert recipe.data.budget.token_budget == 192  # 8 · 24, a multiple of 64
    assert recipe.data.budget.max_length % 256 == 0
    stage = recipe.stages[STAGE]
    assert (stage.epochs, stage.global_batch_size, stage.micro_batch_size) == (10, 1, 1)
    assert set(stage.trains) == {"connector"}  # ten rows are few
    assert stage.init == load_recipe("finetune-connector").stages[STAGE].init
    assert recipe.model == load_recipe("finetune-connector").model


def test_more_rows_mean_adapters_larger_batches_and_fewer_passes(tmp_path: Path, media: Path) -> None:
    written = new(tmp_path, media, [image_row()] * 400)
    stage = load_recipe(written.path).stages[STAGE]
    assert written.template == "lora"
    assert (stage.epochs, stage.global_batch_size) == (9, 32)  # 12 steps a pass, a hundred in all
    assert written.chosen.num_steps == 108
    assert stage.micro_batch_size == 32  # as many tokens as the template's one sample of 16,384 may have
    assert "sampling" not in yaml.safe_load(written.path.read_text())["data"]


def test_answers_that_are_time_spans_ask_for_the_grounding_template(tmp_path: Path, media: Path) -> None:
    spans = [video_row(answer="24.3 - 30.4 seconds."), video_row(answer="From 1 to 2 s"), video_row(answer="At 3 to 4")]
    assert new(tmp_path, media, spans).template == "grounding"
    (tmp_path / "task.yaml").unlink()
    written = new(tmp_path, media, [*spans, *[video_row(answer="Two or three men, 3 to 4.")] * 3])
    assert (written.template, round(written.survey.share_of_spans, 2)) == ("connector", 0.33)


def test_what_it_writes_from_a_finished_stage_trains(tmp_path: Path, media: Path, trained: Recipe) -> None:
    written = new(tmp_path, media, [video_row(), image_row()] * 2, trained)
    cpu = ["accelerator=cpu", "precision=32-true", "strategy=auto", "progress_bar=false"]
    words = [*(f"trainer.{word}" for word in cpu), "data.num_workers=0", f"stages.{STAGE}.max_steps=2"]
    recipe = load_recipe(written.path, [*words, f"output={tmp_path / 'out'}"])
    assert recipe.model == trained.model
    assert recipe.data.system_prompt == "Be brief."
    assert (recipe.data.sampling.max_frames, recipe.data.budget.token_budget) == (8, 64)
    assert recipe.data.budget.max_length <= trained.data.budget.max_length
    run_stage(recipe, STAGE)
    assert (stage_folder(recipe, STAGE) / "model.safetensors").is_file()


def test_frames_are_shown_as_the_start_was_trained(tmp_path: Path, media: Path, trained: Recipe) -> None:
    """The template's own start is a released model; a stage of ours and an import say how they were shown theirs."""

    def shown(recipe: Recipe) -> tuple[str, ...]:
        sampling = recipe.data.sampling
        return sampling.clock, sampling.phase, sampling.repeats, recipe.data.streams

    released, ours = ("container", "end", "keep", "released"), ("from_start", "start", "drop", "ours")
    for number, (start, expected) in enumerate([(None, released), (trained, ours)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert shown(load_recipe(new(folder, media, [video_row()], start).path)) == expected
    tiny = load_recipe("videollama3-tiny").model
    save_weights(build_model(tiny, ReducerConfig()), tmp_path / "tiny.safetensors")
    settings = {"sampling": {"clock": "from_start", "phase": "start", "repeats": "keep"}, "streams": "ours"}
    (tmp_path / "tiny.import.json").write_text(json.dumps({"data": settings}))
    data = write_rows(tmp_path / "rows.jsonl", [video_row()])
    task = Task("task", (str(data),), str(media), str(tmp_path / "tiny.safetensors"))
    written = write_recipe(task, tmp_path / "task.yaml", lambda: nullcontext(lambda *_: None), jobs=0)
    assert shown(written.recipe) == ("from_start", "start", "keep", "ours")


def test_imported_weights_tell_their_model(tmp_path: Path, media: Path) -> None:
    """By their shapes: the same names with another width are no model of conf/."""
    tiny = load_recipe("videollama3-tiny").model
    save_weights(build_model(tiny, ReducerConfig()), tmp_path / "tiny.safetensors")
    data = write_rows(tmp_path / "rows.jsonl", [image_row()])
    task = Task("task", (str(data),), str(media), str(tmp_path / "tiny.safetensors"))
    written = write_recipe(task, tmp_path / "task.yaml", lambda: nullcontext(lambda *_: None), jobs=0)
    assert written.recipe.stages[STAGE].init == str(tmp_path / "tiny.safetensors")
    assert written.recipe.model.llm.hidden_size == tiny.llm.hidden_size
    narrow = load_recipe("videollama3-tiny", ["model.vision.intermediate_size=48"]).model
    save_weights(build_model(narrow, ReducerConfig()), tmp_path / "tiny.safetensors")
    with pytest.raises(RecipeError, match=r"tiny.safetensors.*conf/model"):
        write_recipe(task, tmp_path / "other.yaml", lambda: nullcontext(lambda *_: None), jobs=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "nowhere"], "nowhere: no such file or folder"),
        (["--from", "."], ".: no folder of a finished stage: make weights of it with"),
        (["--from", "rows.jsonl"], "rows.jsonl: training starts from safetensors"),
        (["--template", "lorra"], "no template lorra, did you mean lora?"),
        (["--output", "there.yaml"], "there.yaml is there already: name another file with --output, or remove it"),
        (["--output", "task.txt"], "task.txt: a recipe's file ends in .yaml"),
        (
            ["--data", "empty.jsonl"],
            "rows.jsonl, empty.jsonl: none of the 1 rows can be used; the first: rows.jsonl, row 1",
        ),
        (["--data", "gone.jsonl"], "gone.jsonl: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"text": "no turns"}])
    write_rows(tmp_path / "empty.jsonl", [])
    (tmp_path / "there.yaml").write_text("mine")
    result = CliRunner().invoke(app, ["new", "task", "--data", "rows.jsonl", *words])
    lines = [line for line in result.output.splitlines() if line.strip() and "━" not in line]  # no progress bar
    assert (result.exit_code, len(lines)) == (2, 1), result.output
    assert lines[0].startswith(said)
    assert not (tmp_path / "task.yaml").exists()
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_an_empty_file_and_a_name_that_leaves_its_folder_are_refused(tmp_path: Path, media: Path) -> None:
    with pytest.raises(RecipeError, match=r"rows.*docs/data\.md"):
        new(tmp_path, media, [])
    with pytest.raises(RecipeError, match=r"^'.*folder"):
        Task("../task", ("rows.jsonl",), ".")


def test_the_command_says_what_it_saw_and_what_to_run(
    tmp_path: Path, media: Path, trained: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(media, "my clips")
    rows = [video_row(), image_row(), video_row("broken.mp4"), {"conversations": turns("[red]Why?[/red]", "So.")}]
    write_rows(tmp_path / "rows.jsonl", rows)
    start = str(stage_folder(trained, "videos"))
    earlier = tmp_path / "runs" / "task" / "fine_tuning"
    earlier.mkdir(parents=True)
    (earlier / "model.safetensors").touch()
    words = ["new", "task", "--data", "rows.jsonl", "--root", "my clips", "--from", start]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    output = result.output
    assert re.search(r"rows +│ 3: 1 with text alone, 1 with one image, 1 with video", output)
    assert re.search(r"broken +│ 1 rows, 1 files", output)
    assert "rows.jsonl, row 3: my clips/broken.mp4: not a media file that FFmpeg can open" in output
    commands = [line for line in output.splitlines() if line.startswith("lightning-apollo ")]
    assert [command.split()[1] for command in commands] == ["inspect", "explain", "fit", "generate", "export"]
    assert commands[2] == "lightning-apollo fit task.yaml --again"
    assert "# train; the weights that lie in runs/task/fine_tuning are moved aside to runs/task/fine_tuning.1" in output
    assert commands[3] == (
        "lightning-apollo generate runs/task/fine_tuning --video 'my clips/four.mp4' --prompt 'What is shown?'"
    )
    result = CliRunner().invoke(app, commands[1].split()[1:])
    assert result.exit_code == 0, result.output
