"""Preprocessing of a stage, read from its recipe."""

from dataclasses import fields

import pytest

from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.runs.build import build_data, preprocessing_of
from tests.small_data import tiny_tokenizer

STAGE = "stages.multi_task_fine_tuning"


def test_every_setting_is_that_of_the_recipe() -> None:
    changed = {
        "model.vision.patch_size": 8,
        f"{STAGE}.image_merge_size": 2,
        f"{STAGE}.video_merge_size": 4,
        "data.sampling.fps": 3.0,
        "data.budget.min_tokens": 5,
        "data.system_prompt": "Sing.",
        "data.clip_text.times": "released",
        "data.picture.background": "black",
        "data.stream_max_frames": 7,
        "data.streams": "released",
    }
    recipe = load_recipe("videollama3-tiny", [f"{key}={value}" for key, value in changed.items()])
    found = build_data(recipe, "multi_task_fine_tuning").preparer.settings
    stage, data = recipe.stages["multi_task_fine_tuning"], recipe.data
    assert (found.patch_size, found.image_merge_size, found.video_merge_size, found.clip) == (8, 2, 4, None)
    assert (stage.image_merge_size, stage.video_merge_size) == (2, 4)
    of_data = {field.name for field in fields(found)} & {field.name for field in fields(data)}
    assert len(of_data) == 7
    assert all(getattr(found, name) == getattr(data, name) for name in of_data)
    assert (found.sampling.fps, found.system_prompt, found.stream_max_frames) == (3.0, "Sing.", 7)


@pytest.mark.parametrize(("of_stage", "expected"), [("null", 8), ("3", 3)])
def test_clips_of_a_stage_come_before_those_of_the_data(of_stage: str, expected: int) -> None:
    words = ["data.sampling.max_clips=8", f"stages.vision_pretraining.max_clips={of_stage}"]
    recipe = load_recipe("apollo-tiny", words)
    found = preprocessing_of(recipe, "vision_pretraining", tiny_tokenizer())
    assert found.clip == recipe.model.clip is not None
    assert found.sampling.max_clips == expected
