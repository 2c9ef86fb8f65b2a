"""Settings that make another training: recorded fingerprints and defaults, values against spellings."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.schema import Recipe, load_recipe, load_recipes
from lightning_apollo.runs import settings
from lightning_apollo.runs.settings import BY_CONTENT, WITHOUT_EFFECT, settings_of
from tests.runs.recorded import DEFAULTS, FINGERPRINTS, counted_defaults, recipe_fingerprints, sections
from tests.small_recipe import RECIPE, recipe

STAGE = "videos"
RECORD = "python -m tests.runs.recorded"


def test_shipped_recipes_have_the_recorded_fingerprints() -> None:
    recorded, now = json.loads(FINGERPRINTS.read_text()), recipe_fingerprints()
    changed = [name for name in recorded if now.get(name) != recorded[name]]
    assert not changed, f"{changed}: weights that users trained with these recipes are another training's now"
    assert now.keys() == recorded.keys(), f"a new recipe: record it with {RECORD}"


def test_defaults_are_the_recorded_ones() -> None:
    recorded, now = json.loads(DEFAULTS.read_text()), json.loads(json.dumps(counted_defaults()))
    changed = {name: (recorded[name], now.get(name)) for name in recorded if now.get(name) != recorded[name]}
    assert not changed, f"{changed}: add the first of these values to DEFAULTS_CHANGED in runs/settings.py"
    assert now.keys() == recorded.keys(), f"a new option: record it with {RECORD}"


def test_the_tables_name_fields_that_there_are() -> None:
    known = {f"{kind.__name__}.{field.name}" for kind in sections() for field in dataclasses.fields(kind)}
    assert {*WITHOUT_EFFECT, *BY_CONTENT, *settings.DEFAULTS_CHANGED} <= known
    assert not BY_CONTENT & WITHOUT_EFFECT.keys()


def small(folder: Path, *words: str) -> Mapping[str, Any]:
    return settings_of(recipe(folder, *words), STAGE)


SAME = [
    "name=other",
    "output=elsewhere",
    "trainer.devices=1",
    "trainer.threads=2",
    "trainer.log_every_n_steps=7",
    "trainer.checkpoint.keep=5",
    "trainer.non_finite.action=skip",
    "trainer.blank_media_check=false",
    "data.on_error=raise",
    "data.max_error_share=0.5",
    "data.unknown_keys=ignore",
    "data.outside_root=[/media]",
    "data.storage.protocols=[sftp]",
    "data.num_workers=2",
    "data.decoder_threads=2",
    "data.supervision={deadline_seconds: 5}",
    "data.frame_cache={folder: frames, max_gigabytes: 1}",
    "data.index=index",
    "data.root=elsewhere",
    "data.shapes.num_held_out=2",
    "data.cost.llm_token=1.0",  # which only packing looks at
    f"stages.{STAGE}.micro_batch_size=4",
    f"stages.{STAGE}.activation_checkpointing=true",
    f"stages.{STAGE}.epochs=3",  # max_steps comes before it
    f"stages.{STAGE}.mixture={{text: 0.5, images: 0.25, videos: 1.0}}",  # another order
    "stages.adapt.trains.vision=1e-5",  # another stage
    "seed=1",  # as it is
    "data.sampling.phase=start",  # the default, written out
    "data.budget.max_length=512",
]
OTHER = [  # a word, and the key that shows it
    ("seed=0", "seed"),  # a default again, where the recipe has another
    ("trainer.precision=bf16-mixed", "trainer.precision"),
    ("data.sampling.fps=1.0", "data.sampling.fps"),
    ("data.picture.background=black", "data.picture.background"),
    ("data.system_prompt=Hello.", "data.system_prompt"),
    ("data.visuals=blind", "data.visuals"),
    ("model.llm.attention_dropout=0.1", "model.llm.attention_dropout"),
    (f"stages.{STAGE}.trains.llm=1e-4", f"stages.{STAGE}.trains.llm"),
    (f"stages.{STAGE}.mixture.text=0.6", f"stages.{STAGE}.mixture.text"),
    (f"stages.{STAGE}.mixture.text=0.0", "data.sources"),
    (f"stages.{STAGE}.global_batch_size=4", f"stages.{STAGE}.global_batch_size"),
    (f"stages.{STAGE}.optimizer.eps=1e-6", f"stages.{STAGE}.optimizer.eps"),
    (f"stages.{STAGE}.lora={{llm: {{}}}}", f"stages.{STAGE}.lora.llm"),  # all of it at its defaults
    (f"stages.{STAGE}.max_steps=-1", f"stages.{STAGE}.max_steps"),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mapping[str, Any]]:
    """The settings of the small recipe without words, with all of SAME, and with each of OTHER."""
    path = tmp_path_factory.mktemp("settings") / "test.yaml"
    path.write_text(RECIPE.format(output=path.parent))
    words = ["", "same", *(word for word, _ in OTHER)]
    recipes = load_recipes(path, [[], SAME, *([word] for word, _ in OTHER)])
    return {word: settings_of(one, STAGE) for word, one in zip(words, recipes, strict=True)}


def test_what_changes_no_weights_is_the_same_training(loaded: dict[str, Mapping[str, Any]]) -> None:
    assert loaded["same"] == loaded[""]  # all words at once


@pytest.mark.parametrize(("word", "key"), OTHER)
def test_what_changes_weights_is_another(word: str, key: str, loaded: dict[str, Mapping[str, Any]]) -> None:
    before, now = loaded[""], loaded[word]
    assert key in {name for name in {**before, **now} if before.get(name) != now.get(name)}


def test_packing_uses_other_settings(tmp_path: Path) -> None:
    words = [f"stages.{STAGE}.packing={{max_llm_tokens: 600, max_patches: 2000, micro_batches: 4}}"]
    packed = small(tmp_path, *words)
    assert packed == small(tmp_path, *words, f"stages.{STAGE}.global_batch_size=16")  # which packing does not use
    assert packed != small(tmp_path, *words, "data.cost.llm_token=1.0")
    assert packed != small(tmp_path, *words, f"stages.{STAGE}.packing.max_patches=1000")


def test_the_order_of_sources_counts_and_that_of_the_mixture_does_not(tmp_path: Path) -> None:
    """Indices of sources are what an epoch's order is drawn over (order.py); weights are looked up by name."""
    one = recipe(tmp_path)
    swapped = dict(reversed(one.data.sources.items()))
    other = dataclasses.replace(one, data=dataclasses.replace(one.data, sources=swapped))
    assert settings_of(one, STAGE) != settings_of(other, STAGE)


def test_an_option_that_a_release_adds_changes_nothing_and_another_default_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = recipe(tmp_path, "data.budget.min_tokens=16")  # its default
    assert "data.budget.min_tokens" not in settings_of(plain, STAGE)
    monkeypatch.setattr(settings, "DEFAULTS_CHANGED", {"BudgetConfig.min_tokens": 8})  # which 0.2.0 had
    assert settings_of(plain, STAGE)["data.budget.min_tokens"] == BudgetConfig().min_tokens == 16
    assert settings.default_at("data.budget.min_tokens") == 8
    as_before = recipe(tmp_path, "data.budget.min_tokens=8")
    assert "data.budget.min_tokens" not in settings_of(as_before, STAGE)


def test_a_tokenizer_counts_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "tokenizer"
    copy.mkdir()
    for file in (conf_folder() / "model" / "tiny_tokenizer").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = small(tmp_path)
    assert small(tmp_path, f"model.llm.tokenizer={copy}") == before
    (copy / "weights.safetensors").write_bytes(b"no part of a tokenizer")
    monkeypatch.chdir(tmp_path)
    assert small(tmp_path, "model.llm.tokenizer=./tokenizer") == before
    file = copy / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert small(tmp_path, f"model.llm.tokenizer={copy}") != before


def test_a_hub_name_counts_as_it_is_written() -> None:
    one: Recipe = load_recipe("videollama3-2b")
    assert settings_of(one, next(iter(one.stages)))["model.llm.tokenizer"] == one.model.llm.tokenizer
