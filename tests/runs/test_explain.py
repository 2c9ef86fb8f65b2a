"""Output of explain against transformers' own classes and numbers worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.explain import (
    count_adapters,
    count_manifest_rows,
    count_parameters,
    count_ranks,
    count_steps,
    explain,
    stage_memory,
)
from lightning_apollo.training.config import PRECISIONS

SIGLIP = {  # config.json of siglip-so400m-patch14-384
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "patch_size": 14,
}
QWEN = {  # config.json of Qwen2.5-1.5B-Instruct, Qwen2.5-3B-Instruct and Qwen2.5-7B-Instruct
    "videollama3-2b": (1536, 28, 12, 2, 8960, 151_936, True),
    "videollama3-7b": (3584, 28, 28, 4, 18_944, 152_064, False),
    "apollo-1.5b": (1536, 28, 12, 2, 8960, 151_936, True),
    "apollo-3b": (2048, 36, 16, 2, 11_008, 151_936, True),
    "apollo-7b": (3584, 28, 28, 4, 18_944, 152_064, False),
}
NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def print_to_text(recipe: Recipe) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(explain(recipe))
    return capture.get()


def size(*modules: nn.Module) -> int:
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def qwen(name: str) -> Qwen2Config:
    *sizes, vocab_size, is_tied = QWEN[name]
    return Qwen2Config(vocab_size=vocab_size, tie_word_embeddings=is_tied, **dict(zip(NAMES, sizes, strict=True)))


@pytest.mark.parametrize("name", ["videollama3-2b", "videollama3-7b"])
def test_parameters_equal_those_of_the_port(name: str) -> None:
    text = qwen(name)
    config = VideoLlama3Config(
        text_config=text.to_dict(), vision_config=SIGLIP, tie_word_embeddings=text.tie_word_embeddings
    )
    with torch.device("meta"):
        port = VideoLlama3ForConditionalGeneration(config)
    expected = {
        "vision": size(port.model.vision_model),
        "connector": size(port.model.projector),
        "llm": size(port.model.language_model, port.lm_head),
    }
    recipe = load_recipe(name)
    assert count_parameters(recipe) == expected
    shown = print_to_text(recipe)
    assert all(shown.count(f"{number:,}") == 4 for number in expected.values())  # one table for each stage
    assert f"{sum(expected.values()):,} parameters" in shown


def internvideo2_size(num_layers: int, d: int = 1408, inner: int = 6144) -> int:
    """papers.md 1.1: patches of 14, 4 frames of 224 pixels; a layer has qkv, projection, MLP, four norms and two scales."""
    layer = 4 * d * d + d + 2 * d * inner + inner + d + 6 * d
    return num_layers * layer + 3 * 14**2 * d + d + d + (1 + 4 * 16**2) * d


def resampler_size(d: int) -> int:
    """papers.md 1.1: projection of 2560 channels, 128 latents, 16 heads and 4 of keys and values of 96, a gated MLP, norms."""
    return 2560 * d + d + 128 * d + 2 * (16 + 4) * 96 * d + 12 * d * d + 12 * d


@pytest.mark.parametrize("name", ["apollo-1.5b", "apollo-3b", "apollo-7b"])
def test_parameters_of_apollo_equal_the_published_sizes(name: str) -> None:
    text = qwen(name)
    with torch.device("meta"):
        siglip = SiglipVisionModel(
            SiglipVisionConfig.from_dict({**SIGLIP, "image_size": 384, "vision_use_head": False})
        )
        llm = Qwen2ForCausalLM(text)
    unused = [siglip.encoder.layers[-1], siglip.post_layernorm]  # the output of the layer before the last is taken
    expected = {
        "vision": size(siglip) - size(*unused) + internvideo2_size(num_layers=39),
        "connector": resampler_size(text.hidden_size),
        "llm": size(llm),
    }
    recipe = load_recipe(name)
    assert count_parameters(recipe) == expected
    shown = print_to_text(recipe)
    assert all(shown.count(f"{number:,}") == len(recipe.stages) for number in expected.values())
    assert f"{sum(expected.values()):,} parameters" in shown


def test_rates_and_frozen_parts_are_shown() -> None:
    lines = [line.split() for line in print_to_text(load_recipe("videollama3-2b")).splitlines()]
    llm = [line[4:] for line in lines if line[1:2] == ["llm"]]
    assert llm == [["│", "frozen", "│", "│"], *[["│", "trained", "│", "1e-05", "│"]] * 3]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("kind=none", "all of them reach the LLM"),
        ("threshold_grey_levels=5.8", "diff_fp drops those that change by 5.8 grey levels or less"),
        ("token_budget=500", "diff_fp keeps the 500 of each video that change most"),
        ("kind=merge_similar", "with a cosine of 0.9 or more to their first become their mean"),
    ],
)
def test_the_reducer_is_said(value: str, said: str) -> None:
    recipe = load_recipe("videollama3-2b", [f"stages.video_centric_fine_tuning.reducer.{value}"])
    last_stage = print_to_text(recipe).split("video_centric_fine_tuning")[-1]
    text = " ".join(word for line in last_stage.splitlines() for word in line.split() if word != "│")
    assert said in text


def test_steps_are_counted_from_the_rows_that_are_there(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    manifest.write_text("".join(json.dumps(row) + "\n" for _ in range(300)))
    recipe = load_recipe("videollama3-2b", [f"data.manifests=[{manifest}]"])
    assert count_manifest_rows(recipe.data.sources["custom"]) == 300
    stage = replace(recipe.stages["multi_task_fine_tuning"], mixture={"custom": 1.5}, epochs=2)
    assert count_steps(stage, {"custom": 300}) == 6  # 450 samples: three batches of 128, twice
    assert count_steps(replace(stage, max_steps=5), {"custom": 300}) == 5
    assert count_steps(stage, {"custom": None}) is None
    assert "custom × 1, 300 rows" in print_to_text(recipe)


def test_missing_data_is_named() -> None:
    recipe = load_recipe("videollama3-2b", ["data.manifests=[not_there.jsonl]"])
    assert count_manifest_rows(recipe.data.sources["custom"]) is None
    assert "custom × 1, missing: not_there.jsonl" in print_to_text(recipe)


def test_memory_follows_its_formula() -> None:
    parameters = {"vision": 100, "connector": 10, "llm": 1000}
    recipe = load_recipe("videollama3-2b", ["trainer.devices=4", "trainer.num_nodes=2"])
    stage, trainer = recipe.stages["vision_encoder_adaptation"], recipe.trainer
    assert count_ranks(trainer) == 8
    memory = stage_memory(stage, trainer, parameters)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4440, 440, 880)
    # bfloat16 weights; for each of 110 trained ones also a gradient of 2 and one of 4 bytes, two means and a master
    rounded = stage_memory(stage, replace(trainer, precision="bf16-true"), parameters)
    assert (rounded.weights, rounded.gradients, rounded.optimizer) == (2 * 1110, (2 + 4) * 110, (4 + 8) * 110)
    sliced = stage_memory(stage, replace(trainer, strategy="fsdp"), parameters)
    assert sliced.total == memory.total / 8


def test_precision_and_rates_are_said() -> None:
    said = "what trains is rounded from float32 master weights"
    text = {name: print_to_text(load_recipe("videollama3-2b", [f"trainer.precision={name}"])) for name in PRECISIONS}
    assert [name for name, shown in text.items() if said in " ".join(shown.split())] == ["bf16-true"]


def test_a_stage_without_a_rate_is_said(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    manifest.write_text(json.dumps(row) + "\n")
    recipe = load_recipe("videollama3-2b", [f"data.manifests=[{manifest}]"])
    assert "fit will refuse this: the only step would have rate 0" in " ".join(print_to_text(recipe).split())


def test_adapters_are_counted_and_take_memory_in_the_place_of_what_they_train() -> None:
    recipe = load_recipe("finetune-lora")
    stage, parameters = recipe.stages["fine_tuning"], count_parameters(recipe)
    adapters = count_adapters(recipe, stage)
    vision = 27 * 16 * (4 * (1152 + 1152) + 2 * (1152 + 4304))  # layers, rank, q k v out and the MLP's two
    llm = 28 * 16 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
    assert {name: sizes.num_parameters for name, sizes in adapters.items()} == {"vision": vision, "llm": llm}
    lines = [" ".join(line.split()) for line in print_to_text(recipe).splitlines()]
    for number in (vision, llm):
        assert f"│ adapters, rank 16 │ {number:,} │ trained │ 0.0001 │" in lines
    trained = vision + llm + parameters["connector"]
    memory = stage_memory(stage, recipe.trainer, parameters, adapters)
    whole = sum(parameters.values())
    assert (memory.weights, memory.gradients, memory.optimizer) == (
        4 * (whole + vision + llm),
        4 * trained,
        8 * trained,
    )
    small = replace(stage, lora={name: replace(config, quantize="nf4") for name, config in stage.lora.items()})
    linear = 27 * (4 * 1152**2 + 2 * 1152 * 4304) + 28 * (2 * 1536**2 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    saved = memory.weights - stage_memory(small, recipe.trainer, parameters, adapters).weights
    assert saved == pytest.approx((4 - 0.516) * linear, rel=1e-3)


def test_packed_batches_are_said() -> None:
    packing = ("max_llm_tokens=2048", "max_patches=9000", "micro_batches=8", "weights=tokens")
    stage = "stages.video_centric_fine_tuning"
    words = [f"{stage}.packing.{word}" for word in packing]
    text = print_to_text(load_recipe("videollama3-tiny", [*words, f"{stage}.max_steps=-1"]))
    assert "1 epoch; counted when they are planned, of 8 packed micro-batches" in text
    assert "8 = 8 accumulated × 1 rank, at most 2,048 LLM tokens and 9,000 patches each" in text
    assert "text: 50.0% of the tokens" in text


def test_a_batch_that_does_not_divide_is_said() -> None:
    text = print_to_text(load_recipe("videollama3-2b", ["trainer.devices=3"]))
    assert "fit will refuse this: global_batch_size 128 is no multiple of 6" in text
    text = print_to_text(load_recipe("videollama3-2b", ["trainer.devices=4", "trainer.num_nodes=2"]))
    assert "128 = 2 packed × 8 accumulated × 8 ranks" in text
