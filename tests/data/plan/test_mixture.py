"""Modality shares: passes by hand, shares of a real epoch and errors."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_apollo.data.plan.mixture import check_shares, passes_for_shares
from lightning_apollo.data.plan.order import epoch_order, epoch_size
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.layers import RecipeError
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.structures import SAMPLE_MODALITIES

SIZES = {"chat": 100, "photos": 300, "charts": 100, "clips": 500}
MODALITIES = {"chat": "text", "photos": "image", "charts": "image", "clips": "video"}
ONCE = dict.fromkeys(SIZES, 1.0)


def test_passes_by_hand() -> None:
    passes = passes_for_shares(ONCE, SIZES, MODALITIES, {"text": 0.2, "image": 0.3, "video": 0.5})
    # 1000 samples: 200 of 100 texts, 300 of the 400 images, 500 of the 500 clips
    assert passes == pytest.approx({"chat": 2.0, "photos": 0.75, "charts": 0.75, "clips": 1.0})


def test_sources_of_one_modality_keep_their_ratio() -> None:
    passes = passes_for_shares({**ONCE, "charts": 3.0}, SIZES, MODALITIES, {"text": 0.0, "image": 0.5, "video": 0.5})
    assert passes["charts"] == pytest.approx(3 * passes["photos"])
    assert passes["chat"] == 0.0


def test_without_shares_the_mixture_stays() -> None:
    assert passes_for_shares(ONCE, SIZES, dict.fromkeys(SIZES), {}) == ONCE


@given(
    weights=st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any),
    sizes=st.lists(st.integers(50, 3000), min_size=4, max_size=4),
)
def test_an_epoch_has_the_shares(weights: list[int], sizes: list[int]) -> None:
    shares = dict(zip(("text", "image", "video"), (w / sum(weights) for w in weights), strict=True))
    source_sizes = dict(zip(SIZES, sizes, strict=True))
    passes = passes_for_shares(ONCE, source_sizes, MODALITIES, shares)
    drawn = Counter(MODALITIES[list(SIZES)[source]] for source, _ in epoch_order(source_sizes, passes, 0, 0).tolist())
    total = epoch_size(source_sizes, passes)
    assert abs(total - sum(sizes)) <= 4  # as long as without shares, but for the rounding of each source
    for modality, share in shares.items():
        assert abs(drawn[modality] - share * total) <= 4


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"texts": 1.0}, r"^shares .*\btexts; .*text, image, multi_image, video"),
        ({"text": 0.5, "video": 0.4}, r"^shares .*\b1\b.*\b0\.9$"),
        ({"text": -0.5, "video": 1.5}, r"^shares .*negative.*\b1$"),
    ],
)
def test_bad_shares(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shares(shares)


def test_a_share_without_a_source_and_a_source_without_a_modality() -> None:
    with pytest.raises(ValueError, match=r"shares.*\bmulti_image\b"):
        passes_for_shares(ONCE, SIZES, MODALITIES, {"multi_image": 0.5, "video": 0.5})
    with pytest.raises(ValueError, match=r"data\.sources\.chat\.modality"):
        passes_for_shares(ONCE, SIZES, {**MODALITIES, "chat": None}, {"video": 1.0})
    with pytest.raises(RecipeError, match=r"stages\.instruction_tuning: .*shares.*\b1\b"):
        load_recipe("apollo-3b", ["stages.instruction_tuning.shares={text: 0.3, video: 0.3}"])


@pytest.mark.parametrize("path", sorted((conf_folder() / "mixture").glob("*.yaml")), ids=lambda path: path.stem)
def test_named_mixtures_say_what_their_names_say(path: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(f"base: [recipe/apollo-3b, mixture/{path.stem}]\nname: mixed\n")
    shares = load_recipe(recipe).stages["instruction_tuning"].shares
    prefixes = dict(zip(SAMPLE_MODALITIES, ("t", "i", "mi", "v"), strict=True))
    name = "_".join(f"{prefixes[m]}{100 * shares[m]:g}".replace(".", "p") for m in SAMPLE_MODALITIES)
    assert name == path.stem
