"""The page of a sample against the sample, read with the standard library."""

import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from lightning_apollo.cli.inspect import inspect_command
from lightning_apollo.inspection.page import write_inspection_page
from lightning_apollo.inspection.sample import Inspected, inspect_sample
from lightning_apollo.models.checkpoint.load import save_weights
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.pages.report import DROPPED_GREY
from lightning_apollo.recipe.schema import Recipe, load_recipe, save_recipe
from lightning_apollo.structures import IGNORE_INDEX, Sample, VisualBatch
from tests.inspection.pages import STAGE, page_of, videos_recipe
from tests.media_files import h264, write_clip
from tests.small_data import turns, write_pictures, write_rows

KINDS = {
    "text": "text",
    "image_captions": "image",
    "multi_image": "multi_image",
    "video_qa": "video",
    "streaming": "video",
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in set is rendered once."""
    return tmp_path_factory.mktemp("page") / "shapes"


def of_kind(kind: str, shapes: Path, folder: Path, *words: str) -> Inspected:
    one = videos_recipe(folder, f"data.root={shapes}", "data.budget.token_budget=128", *words)
    sources = {"videos": replace(one.data.sources["videos"], manifests=[f"{kind}.jsonl"])}
    stage = replace(one.stages[STAGE], mixture={"videos": 1.0}, global_batch_size=4)
    return inspect_sample(replace(one, data=replace(one.data, sources=sources), stages={STAGE: stage}), STAGE, 3)


def shown(inspected: Inspected) -> Sample:
    assert inspected.sample is not None
    return inspected.sample


def kept_by_hand(sample: Sample, threshold: float = 0.05) -> int:
    """DiffFP in NumPy: a block stays where its mean change since the frame before passes the threshold."""
    num_kept = 0
    for item in sample.visuals:
        pixels, side = item.frames.pixels.numpy().astype(np.float64), sample.patch_size * item.merge_size
        frames, _, height, width = pixels.shape
        blocks = pixels.reshape(frames, 3, height // side, side, width // side, side)
        changes = np.abs(np.diff(blocks, axis=0)).mean(axis=(1, 3, 5))  # (F - 1, rows, columns)
        num_kept += changes[0].size if len(changes) else height * width // side**2
        num_kept += sum(max(1, int((change > threshold).sum())) for change in changes)
    return num_kept


@pytest.mark.parametrize("kind", KINDS)
def test_text_mask_and_ledger_of_every_kind(kind: str, shapes: Path, tmp_path: Path) -> None:
    inspected = of_kind(kind, shapes, tmp_path)
    sample, page = shown(inspected), page_of(inspected, tmp_path)
    assert sample.modality == KINDS[kind]
    tokenizer = load_tokenizer(inspected.recipe.model.llm.tokenizer)
    assert "".join(token.tokenized for token in page.tokens) == tokenizer.decode(sample.input_ids.tolist())
    labels = sample.labels[sample.labels != IGNORE_INDEX]
    trained = "".join(token.tokenized for token in page.tokens if "trained" in token.classes)
    assert trained == tokenizer.decode(labels.tolist())
    assert len(page.pictures) == sum(len(item.frames) for item in sample.visuals)

    num_visual, num_kept = int(sample.is_placeholder.sum()), kept_by_hand(sample)
    num_text = len(sample.input_ids) - num_visual
    assert page.facts["text tokens"] == [str(num_text)]
    assert page.facts["of them trained on"][0].startswith(f"{len(labels)} (")
    assert page.facts["visual tokens before reduction"] == [f"{num_visual} of data.budget.token_budget 128"]
    assert page.facts["reach the LLM"][0].startswith(f"{num_text + num_kept}: {num_text} of text and {num_kept} visual")
    assert sum(token.num_kept for token in page.tokens if "visual" in token.classes) == num_kept
    if kind == "video_qa":
        assert 0 < num_kept < num_visual
        assert "Blocks painted over" in page.text
    if num_visual:
        assert page.facts["tokens"][0].endswith(f"{num_kept} kept") or kind == "multi_image"


def test_hovering_names_position_and_id(shapes: Path, tmp_path: Path) -> None:
    inspected = of_kind("video_qa", shapes, tmp_path)
    sample, page = shown(inspected), page_of(inspected, tmp_path)
    ids, position = sample.input_ids.tolist(), 0
    for token in page.tokens:
        place, token_ids = token.hover.split(" · id ")
        end = int(place.split()[-1]) + 1
        assert int(place.split()[1]) == position
        assert set(map(int, token_ids.split(", "))) == set(ids[position:end])
        position = end
    assert position == len(ids)


def test_bars_are_the_batch(shapes: Path, tmp_path: Path) -> None:
    words = [f"stages.{STAGE}.packing.max_llm_tokens=1200", f"stages.{STAGE}.packing.max_patches=2000"]
    inspected = of_kind("video_qa", shapes, tmp_path, *words, f"stages.{STAGE}.packing.micro_batches=1")
    batch, page = inspected.batch, page_of(inspected, tmp_path)
    assert batch is not None
    _, *rows = page.rows
    assert [row[0] for row in rows] == list(batch.sample_ids)
    placeholder = load_tokenizer(inspected.recipe.model.llm.tokenizer).convert_tokens_to_ids("<image>")
    assert isinstance(placeholder, int)
    num_visual = [int((own == placeholder).sum()) for own in batch.input_ids.split(batch.lengths)]
    assert len(num_visual) > 1
    assert [int(row[4]) for row in rows] == num_visual
    assert [int(row[2]) + int(row[4]) for row in rows] == list(batch.lengths)
    assert sum(int(row[3]) for row in rows) == batch.num_labels
    own = rows[batch.sample_ids.index(inspected.conversation.sample_id)]
    assert int(own[5]) == kept_by_hand(shown(inspected))
    assert f"{sum(batch.lengths):,} LLM tokens before reduction of 1,200" in page.text
    assert f"{sum(batch.visual.frame_lengths):,} patches of the encoder of 2,000" in page.text
    assert page.tags.count("b") == 2  # the limits
    assert {kind for kind, _ in page.bar_parts} == {"text", "kept", "dropped"}


def test_what_the_data_say_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script>\" onload=\"x"
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / '<img onerror="x">.png')
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [{"image": '<img onerror="x">.png', "conversations": turns(f"<image>\n{hostile}", hostile)}] * 8
    rows.append({"image": "broken.png", "conversations": turns(hostile, hostile)})
    manifest = write_rows(tmp_path / "<b>rows.jsonl", rows)
    one = videos_recipe(tmp_path / "run", f"data.manifests=['{manifest}']", f"data.root={tmp_path}")
    for row, is_broken in ((1, False), (9, True)):
        one = replace(one, stages={STAGE: replace(one.stages[STAGE], global_batch_size=9, micro_batch_size=9)})
        page = page_of(inspect_sample(one, STAGE, sample_id=f"<b>rows.jsonl:{row}"), tmp_path)
        assert not {"script", "iframe", "link"} & set(page.tags)
        assert len(page.pictures) == (0 if is_broken else 1)
        assert all(picture.startswith("data:image/png;base64,") for picture in page.pictures)
        text = page.text if is_broken else "".join(token.tokenized for token in page.tokens)
        assert text.count(hostile) == 2
    assert "This sample cannot be used" in page.text
    assert "takes another row of its source in its place" in page.text


def test_the_budget_that_made_media_smaller_is_named(tmp_path: Path) -> None:
    """A clip of 4 s and 48×160 pixels at two frames a second, blocks of 16 pixels: 3×10 tokens a frame at full size."""
    write_clip(tmp_path / "clip.mp4", 40, 10, *h264())
    row = {"video": "clip.mp4", "conversations": turns("<video>\nWhat?", "numbers"), "start_time": 1.0, "end_time": 3.5}
    manifest = write_rows(tmp_path / "rows.jsonl", [row] * 8)
    words = [f"data.manifests=[{manifest}]", f"data.root={tmp_path}"]

    def media(*more: str) -> dict[str, list[str]]:
        return page_of(inspect_sample(videos_recipe(tmp_path / "run", *words, *more), STAGE), tmp_path).facts

    wide = media("data.budget.token_budget=1000", "data.budget.max_length=2000")
    assert wide["shown"] == ["5 of 5 frames, each 48×160 of 48×160 pixels: no budget made it smaller"]
    assert wide["file"] == ["48×160 pixels, h264, 40 frames in 4.00 s (10.00 a second)"]
    assert wide["moments"] == [
        "fps: 2 a second, the part from 1 s to 3.5 s, shown from 1.00 to 3.00 s, 2.00 a second on average"
    ]
    small = media("data.budget.token_budget=64", "data.budget.max_length=2000")["shown"][0]
    assert small.startswith("5 of 5 frames, each ")
    assert small.endswith("of 48×160 pixels: data.budget.token_budget made it smaller")
    few = media("data.budget.token_budget=12", "data.budget.max_length=2000")["shown"][0]
    assert few.startswith("3 of 5 frames")  # of at least 4 tokens
    short = media("data.budget.token_budget=120", "data.budget.max_length=121")["shown"][0]
    assert short.endswith("data.budget.max_length made it smaller")


def test_turns_that_had_no_room_are_counted(tmp_path: Path) -> None:
    conversation = [turn for _ in range(4) for turn in turns("What is it that you see in all of this?", "nothing")]
    manifest = write_rows(tmp_path / "rows.jsonl", [{"conversations": conversation}] * 8)
    budget = ("data.budget.token_budget=4", "data.budget.max_length=120")
    one = videos_recipe(tmp_path / "run", f"data.manifests=[{manifest}]", *budget)
    page = page_of(inspect_sample(one, STAGE), tmp_path)
    num_turns = sum(token.text == "<|im_start|>" for token in page.tokens)
    assert 2 <= num_turns < 8
    assert page.facts["turns"][0].startswith(f"{num_turns} of 8:")


def test_characters_of_several_tokens_and_signs_for_those_without(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns("日本 🎬\u200b?", "né\tà")}] * 8)
    one = videos_recipe(tmp_path / "run", f"data.manifests=[{manifest}]")
    page = page_of(inspect_sample(one, STAGE), tmp_path)
    written = "".join(token.text for token in page.tokens)
    assert "日本 🎬⟨U+200B⟩?" in written
    assert "né⇥à" in written
    assert any(token.text == "🎬" and token.hover.startswith("positions ") for token in page.tokens)


def test_clips_of_apollo(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 40, 10, *h264())
    row = {"video": "clip.mp4", "conversations": turns("<video>\nWhat?", "numbers")}
    manifest = write_rows(tmp_path / "rows.jsonl", [row] * 32)
    words = [
        f"data.manifests=[{manifest}]",
        f"data.root={tmp_path}",
        f"output={tmp_path}",
        "trainer.progress_bar=false",
    ]
    inspected = inspect_sample(load_recipe("apollo-tiny", words), "vision_pretraining")
    page = page_of(inspected, tmp_path)
    assert page.facts["shown"] == ["8 of 8 frames, each 10×32 of 10×32 pixels: no budget made it smaller"]
    assert page.facts["tokens"] == ["32 before reduction, 32 kept"]
    assert (page.text.count("clip 1"), page.text.count("clip 2")) == (4, 4)
    assert [token.text for token in page.tokens if "visual" in token.classes] == ["<image> ×16"] * 2


def test_merging_by_features_needs_the_start_weights(shapes: Path, tmp_path: Path) -> None:
    merging = (f"stages.{STAGE}.reducer.kind=merge_similar", f"stages.{STAGE}.reducer.min_cosine=0.9")
    unknown = of_kind("video_qa", shapes, tmp_path, *merging)
    page = page_of(unknown, tmp_path)
    assert page.facts["reach the LLM"] == ["not known"]
    assert "How many tokens are merged is not known" in page.text
    assert page.rows[1][5] == "?"

    torch.manual_seed(0)
    model = build_model(unknown.recipe.model, unknown.recipe.stages[STAGE].reducer).eval()
    save_weights(model, tmp_path / "start.safetensors")
    known = of_kind("video_qa", shapes, tmp_path, *merging, f"stages.{STAGE}.init={tmp_path / 'start.safetensors'}")
    sample, page = shown(known), page_of(known, tmp_path)
    with torch.no_grad():
        _, reduction = model.encode(VisualBatch.from_items(sample.visuals, sample.patch_size))
    assert 0 < reduction.num_kept < sample.is_placeholder.sum()
    assert f"and {reduction.num_kept} visual" in page.facts["reach the LLM"][0]
    assert f"{tmp_path / 'start.safetensors'}, from which the stage starts" in page.text


def test_dropped_blocks_are_painted_over(shapes: Path, tmp_path: Path) -> None:
    inspected = of_kind("video_qa", shapes, tmp_path)
    page = page_of(inspected, tmp_path)
    pictures = [np.asarray(Image.open(BytesIO(b64decode(source.split(",")[1])))) for source in page.pictures]
    brightness = [picture.mean() for picture in pictures]
    (item,) = shown(inspected).visuals
    true = [frame.float().mean().item() for frame in item.frames.pixels]
    assert brightness[0] == pytest.approx(true[0], abs=1)
    assert any(seen > was + 0.1 * (DROPPED_GREY - was) for seen, was in zip(brightness[1:], true[1:], strict=True))


def _command(*words: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(inspect_command)
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    one: Recipe = videos_recipe(tmp_path / "run")
    manifest = write_pictures(tmp_path / "pictures", 16, broken=[3])
    save_recipe(one, tmp_path / "one.yaml")
    data = [f"data.manifests=[{manifest}]", f"data.root={tmp_path / 'pictures'}"]
    done = _command(str(tmp_path / "one.yaml"), *data, "--sample", "1")
    line, path = done.stdout.splitlines()
    assert line.startswith("sample 1 of 16 (pictures.jsonl:")
    assert Path(path) == tmp_path / "run" / STAGE / "inspect" / "sample-1.html"
    assert Path(path).read_text().startswith("<!doctype html>")

    output = tmp_path / "page.html"
    done = _command(str(tmp_path / "one.yaml"), *data, "--id", "pictures.jsonl:4", "--output", str(output))
    assert "(pictures.jsonl:4) cannot be used: " in done.stdout
    assert output.is_file()

    done = _command(str(tmp_path / "one.yaml"), *data, "--sample", "16")
    assert done.exit_code == 2
    assert re.fullmatch(r".*\bsample 16: .*\b0 to 15\n", done.stderr)


def test_the_summary_is_a_line(shapes: Path, tmp_path: Path) -> None:
    inspected = of_kind("video_qa", shapes, tmp_path)
    line = write_inspection_page(inspected, tmp_path / "page.html")
    assert line.endswith(f"{kept_by_hand(shown(inspected))} of them kept")
