"""The fine-tuning templates: each trains what it says and nothing else, and its results go where all others go."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_apollo.data.collate import collate
from lightning_apollo.data.source import open_sources
from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.models.checkpoint.adapter import merge_files
from lightning_apollo.models.checkpoint.files import ADAPTER
from lightning_apollo.models.checkpoint.load import load_weights
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs import fit
from lightning_apollo.runs.fingerprint import differences, read_origin
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import WeightsError
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.exporting import export_stage
from lightning_apollo.weights.verify import verify
from tests.finetuned import STAGE, TEMPLATES, prepare, recipe
from tests.stopped_runs import Stopped, with_notes
from tests.tolerances import SUMMATION

LAYERS = r"\.layers\.\d+\.\w+\.(\w_proj|\w+_proj|fc\d)\.weight$"
TRAINED = {  # names of the tensors that each template changes
    "connector": r"^connector\.",
    "lora": rf"^connector\.|^(vision_encoder\.encoder|llm\.model){LAYERS}",
    "full": "",
    "video": "",
    "grounding": rf"^connector\.|^llm\.model{LAYERS}",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "clips"
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    """Every template, trained for two steps."""
    folder = tmp_path_factory.mktemp("tuned")
    recipes = {template: recipe(template, folder / template, root) for template in TEMPLATES}
    for one in recipes.values():
        run_stage(one, STAGE)
    return recipes


def digest(one: Recipe) -> str:
    return hashlib.sha256((stage_folder(one, STAGE) / WEIGHTS).read_bytes()).hexdigest()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_trains_what_it_says_and_keeps_the_rest_bit_for_bit(
    template: str, tuned: dict[str, Recipe], root: Path
) -> None:
    before, after = load_file(root / "start.safetensors"), load_file(stage_folder(tuned[template], STAGE) / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    expected = {name for name in before if re.search(TRAINED[template], name)}
    # Keys' biases have a gradient of 0, which rounding may or may not leave at it
    assert {name for name in changed ^ expected if not name.endswith("k_proj.bias")} == set()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert (stage_folder(tuned[template], STAGE) / ADAPTER).is_file() == (template in ("lora", "grounding"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_loads_as_it_stands_and_has_one_stage_over_the_users_rows(template: str) -> None:
    one = load_recipe(f"finetune-{template}")
    assert list(one.stages) == [STAGE]
    assert one.stages[STAGE].mixture == {"custom": 1.0}
    assert (one.data.manifests, one.data.root) == (["train.jsonl"], "clips")
    assert one.stages[STAGE].init == "videollama3-2b.safetensors"
    assert one.model == load_recipe("videollama3-2b").model


def test_a_recipe_on_top_replaces_the_adapters_as_a_whole(root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: [recipe/finetune-lora]\nname: m\nstages: {fine_tuning: {lora: {llm: {rank: 4}}}}\n")
    lora = load_recipe(mine).stages[STAGE].lora
    assert {name: (one.rank, one.alpha) for name, one in lora.items()} == {"llm": (4, 32)}
    changed = load_recipe("finetune-lora", [f"stages.{STAGE}.lora.vision.rank=8"]).stages[STAGE].lora
    assert {name: one.rank for name, one in changed.items()} == {"vision": 8, "llm": 16}


def test_the_stages_weights_answer_as_the_model_with_adapters(tuned: dict[str, Recipe], root: Path) -> None:
    """The model as it trained, put together again from the start weights and the adapter file, against the merged one."""
    one = tuned["lora"]
    folder = stage_folder(one, STAGE)
    model = build_model(one.model, one.stages[STAGE].reducer)
    load_weights(model, root / "start.safetensors")
    Stage(model, one.stages[STAGE])
    stored = load_file(folder / ADAPTER)
    named = {re.sub(r"(lora_[AB])\.", r"\1.default.", name): tensor for name, tensor in stored.items()}
    assert not model.load_state_dict(named, strict=False).unexpected_keys
    trained = load_trained(one)
    (source,) = open_sources(one.data.sources, [])
    samples = [trained.preparer.sample(source[row], source.root) for row in range(2)]
    batch = collate(samples, one.model.patch_size)
    with torch.no_grad():
        expected, found = model.eval()(batch).logits, trained.model(batch).logits
        load_weights(trained.model, root / "start.safetensors")
        assert (trained.model(batch).logits - expected).abs().max() > 1e-3  # training moved them
    torch.testing.assert_close(found, expected, rtol=SUMMATION[torch.float32], atol=SUMMATION[torch.float32])


def test_start_weights_and_adapter_make_the_same_file(tuned: dict[str, Recipe], root: Path, tmp_path: Path) -> None:
    folder = stage_folder(tuned["lora"], STAGE)
    output = tmp_path / "new" / "merged.safetensors"
    assert merge_files(str(root / "start.safetensors"), folder / ADAPTER, output) == len(load_file(output))
    assert output.read_bytes() == (folder / WEIGHTS).read_bytes()
    with pytest.raises(WeightsError, match=r"weights.*stage fine_tuning of tuned\b"):
        merge_files(str(folder / WEIGHTS), folder / ADAPTER, tmp_path / "twice.safetensors")
    assert not (tmp_path / "twice.safetensors").exists()


def test_a_tuned_model_answers(tuned: dict[str, Recipe], root: Path) -> None:
    clip = next(root.rglob("*.mp4"))
    assert isinstance(answer(load_trained(tuned["lora"]), "What happens?", videos=[str(clip)], max_new_tokens=3), str)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_stopped_stage_with_adapters_ends_in_the_same_weights(
    quantize: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"stages.{STAGE}.max_steps=4", "trainer.checkpoint.every_n_steps=2", "trainer.blank_media_check=false"]
    words += [f"stages.{STAGE}.lora.{part}.quantize={quantize}" for part in ("llm", "vision")]
    whole, stopped = (recipe("lora", tmp_path / name, root, *words) for name in ("whole", "stopped"))
    run_stage(whole, STAGE)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "stage_callbacks", with_notes(tmp_path / "notes", stop_after=3))
        with pytest.raises(Stopped):
            run_stage(stopped, STAGE)
    run_stage(stopped, STAGE, resume=True)
    assert digest(stopped) == digest(whole)
    adapters = [(stage_folder(one, STAGE) / ADAPTER).read_bytes() for one in (whole, stopped)]
    assert adapters[0] == adapters[1]
    merged = tmp_path / "merged.safetensors"
    merge_files(str(root / "start.safetensors"), stage_folder(whole, STAGE) / ADAPTER, merged)
    assert hashlib.sha256(merged.read_bytes()).hexdigest() == digest(whole)


def test_adapters_are_part_of_the_fingerprint(root: Path, tmp_path: Path) -> None:
    one, other = (recipe("lora", tmp_path, root, f"stages.{STAGE}.lora.llm.rank={rank}") for rank in (4, 8))
    said = differences(read_origin(one, STAGE), read_origin(other, STAGE))
    assert said == [f"stages.{STAGE}.lora.llm.rank was 4 and is 8"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora={connector: {}}", r"lora\.connector: .*vision.*llm"),
        ("trains={connector: 1e-4, llm: 1e-4}", r"lora\.vision: trains "),
        ("lora.llm.rank=0", r"stages\.fine_tuning\.lora\.llm: .*rank .*\b0\b"),
        ("lora.llm.modules=[qkv]", r"lora\.llm\.modules: .*\bqkv: .*down_proj, gate_proj"),
    ],
)
def test_what_lora_gets_wrong_is_one_line(word: str, said: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        run_stage(recipe("lora", tmp_path, root, f"stages.{STAGE}.{word}"), STAGE)
    assert not stage_folder(recipe("lora", tmp_path, root), STAGE).exists()  # nothing of an earlier run was removed


def test_four_bits_go_with_neither_slices_nor_float64(root: Path, tmp_path: Path) -> None:
    for setting in ("strategy=fsdp", "precision=64-true"):
        with pytest.raises(RecipeError, match=r"quantize.*strategy fsdp.*precision 64-true"):
            recipe("lora", tmp_path, root, f"stages.{STAGE}.lora.llm.quantize=nf4", f"trainer.{setting}")


@pytest.mark.slow
def test_a_merged_model_runs_in_stock_transformers(tuned: dict[str, Recipe], tmp_path: Path) -> None:
    one = tuned["lora"]
    export_stage(one, STAGE, stage_folder(one, STAGE) / WEIGHTS, tmp_path / "exported")
    verified = verify(tmp_path / "exported")
    assert verified.loader.startswith("transformers 5.")
    assert 0 < verified.max_logit_difference < 1e-4
