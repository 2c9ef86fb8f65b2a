"""Sizes that must agree, compared before anything is computed with them: one line that names both."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.inference.trained import find_stage_of
from lightning_apollo.models.config import LLMConfig
from lightning_apollo.models.llm import build_llm, check_positions, load_llm, load_tokenizer_of
from lightning_apollo.recipe.schema import RecipeError, load_recipe
from lightning_apollo.runs.explain import explain
from lightning_apollo.runs.fit import run_recipe
from lightning_apollo.structures import WeightsError

NUM_TOKENS = 502  # conf/model/tiny_tokenizer's 500, and the two of Apollo's that it lacks


@pytest.fixture(scope="module")
def llm() -> LLMConfig:
    return load_recipe("videollama3-tiny").model.llm


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(llm: LLMConfig) -> None:
    assert len(load_tokenizer_of(replace(llm, vocab_size=NUM_TOKENS))) == NUM_TOKENS
    with pytest.raises(WeightsError, match=rf"{NUM_TOKENS} tokens.*model\.llm\.vocab_size.*501.*502"):
        load_tokenizer_of(replace(llm, vocab_size=NUM_TOKENS - 1))


def test_fit_compares_them_before_it_builds_a_model(tmp_path: Path) -> None:
    words = [f"output={tmp_path}/out", f"data.root={tmp_path}/shapes", "model.llm.vocab_size=500"]
    done = CliRunner().invoke(app, ["fit", "videollama3-tiny", "--stage", "vision_encoder_adaptation", *words])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "502 tokens" in line
    assert re.search(r"model\.llm\.vocab_size .*\b500: .*\b502\b", line)


def test_fewer_positions_than_tokens_of_a_sample_are_refused_where_it_would_train(tmp_path: Path) -> None:
    words = ["model.llm.max_position_embeddings=256", "data.budget.max_length=256", f"output={tmp_path}/out"]
    load_recipe("videollama3-tiny", words).require_positions()
    for word in ("model.llm.max_position_embeddings=511", "data.budget.max_length=32769"):
        recipe = load_recipe("videollama3-tiny", [word, f"output={tmp_path}/out"])
        for train in (explain, run_recipe, partial(run_recipe, stage="vision_encoder_adaptation")):
            with pytest.raises(RecipeError, match=r"data\.budget\.max_length is (512|32769),.*max_position_embeddings"):
                train(recipe)
    assert not (tmp_path / "out").exists()


def test_a_stage_that_was_trained_with_fewer_positions_can_be_asked(tmp_path: Path) -> None:
    """Its recipe.yaml is of a version that did not compare them."""
    folder = tmp_path / "run" / "video_centric_fine_tuning"
    folder.mkdir(parents=True)
    llm = "llm: {max_position_embeddings: 512}"
    recorded = f"base: [recipe/videollama3-tiny]\nmodel: {{{llm}}}\ndata: {{budget: {{max_length: 2048}}}}\n"
    (folder / "recipe.yaml").write_text(recorded)
    recipe, stage = find_stage_of(str(folder))
    assert (stage, recipe.data.budget.max_length) == ("video_centric_fine_tuning", 2048)
    assert recipe.model.llm.max_position_embeddings == 512
    with pytest.raises(RecipeError, match=r"max_length is 2048,.*512 positions"):
        run_recipe(recipe)


def test_weights_of_fewer_positions_than_a_sample_may_have_are_refused(llm: LLMConfig, tmp_path: Path) -> None:
    build_llm(replace(llm, max_position_embeddings=256)).save_pretrained(tmp_path)
    loaded = load_llm(replace(llm, weights=str(tmp_path)))
    check_positions(loaded, 256)
    with pytest.raises(WeightsError, match=r"\b256 positions .*data\.budget\.max_length.*\b257\b"):
        check_positions(loaded, 257)


def test_a_hub_that_cannot_be_reached_is_one_line_with_the_fix(llm: LLMConfig) -> None:
    """The tests run with HF_HUB_OFFLINE=1."""
    with pytest.raises(WeightsError) as error:
        load_tokenizer_of(replace(llm, tokenizer="nobody/nothing"))
    with pytest.raises(WeightsError) as other:
        load_llm(replace(llm, weights="nobody/nothing"))
    for said, key in ((str(error.value), "tokenizer"), (str(other.value), "weights")):
        assert said.startswith("nobody/nothing: no such folder, and the hub says: ")
        assert said.endswith(f"(`hf download nobody/nothing`), or name a folder: model.llm.{key}=FOLDER")
        assert "\n" not in said
