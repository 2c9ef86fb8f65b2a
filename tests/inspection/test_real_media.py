"""Inspection of photographs of an installed package and of real clips (`make` unpacks them into .cache)."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from lightning_apollo.inspection.sample import inspect_sample
from tests.inspection.pages import STAGE, page_of, videos_recipe
from tests.places import ROOT
from tests.small_data import turns, write_rows

CLIPS = ROOT / ".cache" / "real_clips"


def _photographs() -> Path:
    package = find_spec("gradio")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "media_assets" / "images"


@pytest.mark.parametrize("name", ["cheetah.jpg", "lion.jpg", "tower.jpg", "groot.jpeg"])
def test_photographs(name: str, tmp_path: Path) -> None:
    row = {"image": name, "conversations": turns("<image>\nWhat is it?", "a photograph")}
    manifest = write_rows(tmp_path / "rows.jsonl", [row] * 8)
    words = [f"data.manifests=[{manifest}]", f"data.root={_photographs()}"]
    budget = ["data.budget.token_budget=2048", "data.budget.max_length=4096"]
    page = page_of(inspect_sample(videos_recipe(tmp_path / "run", *words, *budget), STAGE), tmp_path)
    with Image.open(_photographs() / name) as picture:
        width, height = picture.size
    assert page.facts["file"][0].startswith(f"{height}×{width} pixels")
    assert len(page.pictures) == 1
    assert "".join(token.tokenized for token in page.tokens if "trained" in token.classes) == "a photograph<|im_end|>"


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_clips(name: str, tmp_path: Path) -> None:
    row = {"video": name, "conversations": turns("<video>\nWhat is it?", "a clip")}
    manifest = write_rows(tmp_path / "rows.jsonl", [row] * 8)
    words = [f"data.manifests=[{manifest}]", f"data.root={CLIPS}"]
    budget = ["data.budget.token_budget=512", "data.budget.max_length=1024"]
    inspected = inspect_sample(videos_recipe(tmp_path / "run", *words, *budget), STAGE)
    page = page_of(inspected, tmp_path)
    assert inspected.sample is not None
    assert len(page.pictures) == len(inspected.sample.visuals[0].frames) > 4
    num_tokens, num_kept = (int(word) for word in page.facts["tokens"][0].replace(",", "").split() if word.isdecimal())
    assert 0.9 * num_tokens < num_kept <= num_tokens <= 512  # natural video: almost no block stands still
    assert "data.budget.token_budget made it smaller" in page.facts["shown"][0]
