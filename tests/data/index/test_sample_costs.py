"""Keys under which costs of samples are stored."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_apollo.data.index.sample_costs import _digest
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.structures import ClipShape
from tests.small_data import with_settings

# As the code of November 2026 wrote them: costs of an index that is kept are found again
KEYS = {
    "videollama3-tiny": "4b8a781989a41168",
    "apollo-tiny": "7c80eed36cc0b098",
}


def key(recipe: str, **settings: Any) -> str:
    loaded = load_recipe(recipe)
    data = build_data(loaded, list(loaded.stages)[-1])
    index: Any = SimpleNamespace(fingerprint="abc")
    return _digest(index, with_settings(data.preparer, **settings), replace(data.text, name="tiny"))


@pytest.mark.parametrize("recipe", KEYS)
def test_a_key_is_the_recorded_one(recipe: str) -> None:
    assert key(recipe) == KEYS[recipe]


def test_settings_that_cost_tokens_change_the_key() -> None:
    settings = build_data(load_recipe("videollama3-tiny"), "multi_task_fine_tuning").preparer.settings
    changed: dict[str, Any] = {
        "patch_size": settings.patch_size + 1,
        "image_merge_size": settings.image_merge_size + 1,
        "video_merge_size": settings.video_merge_size + 1,
        "sampling": replace(settings.sampling, fps=7.0),
        "budget": replace(settings.budget, min_tokens=3),
        "stream_max_frames": 7,
        "streams": "released",
    }
    keys = {key("videollama3-tiny", **{name: value}) for name, value in changed.items()}
    assert len(keys | {KEYS["videollama3-tiny"]}) == len(changed) + 1
    assert key("apollo-tiny", clip=ClipShape(4, 17, 32)) != KEYS["apollo-tiny"]
