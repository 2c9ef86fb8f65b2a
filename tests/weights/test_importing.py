"""Published checkpoints into our model: logits against transformers' own classes, and every name accounted for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, SiglipVisionModel

from lightning_apollo.models.checkpoint.layouts import LAYOUTS
from lightning_apollo.models.checkpoint.load import load_vision_weights, load_weights
from lightning_apollo.models.config import LLMConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.llm import load_llm, predict, run_decoder
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.structures import WeightsError
from lightning_apollo.weights.importing import import_weights
from tests.models.clips import CLIP_MODEL
from tests.models.samples import MODEL, PATCH, image, pack, port_logits, port_model, sample, video
from tests.tolerances import MODEL as TOLERANCE
from tests.weights.published import VIDEOLLAMA3, siglip, videollama3, write

ATOL = TOLERANCE[torch.float32]
HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def port():
    return port_model()


def said(source: str, output: Path, model: ModelConfig | None = None, part: str = "all") -> str:
    """The message of the error, which is one line; nothing may have been written."""
    with pytest.raises(WeightsError) as caught:
        import_weights(source, output, part, model)
    assert not output.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["folder", "one.safetensors", "one.bin"])
@pytest.mark.parametrize("layout", VIDEOLLAMA3)
def test_videollama3_of_every_layout_gives_the_logits_of_transformers(
    layout: str, place: str, port, tmp_path: Path
) -> None:
    source = write(videollama3(port, layout), tmp_path / place)
    report = import_weights(source, tmp_path / "ours.safetensors", model=MODEL)
    assert report.layout == f"VideoLLaMA 3 ({layout})"
    assert (len(report.used), report.unused) == (len(port.state_dict()), {})
    assert report.data == {
        "sampling": {"clock": "container", "phase": "end", "repeats": "keep"},
        "streams": "released",
    }
    model = build_model(MODEL, ReducerConfig())
    load_weights(model, tmp_path / "ours.safetensors")
    samples = [sample(image(28, 42, 1), seed=1), sample(video(3, 56, 28, 3), seed=2), sample(seed=3)]
    expected = torch.cat([port_logits(port, one)[0] for one in samples])
    assert_close(model.eval()(pack(*samples)).logits, expected, atol=ATOL, rtol=ATOL)


def test_the_report_lists_every_name_and_lies_beside_the_weights(port, tmp_path: Path) -> None:
    state = videollama3(port, "hub, remote code")
    state["model.vision_encoder.rotary_pos_emb.inv_freq"] = torch.ones(2)
    source = write(state, tmp_path / "folder")
    report = import_weights(source, tmp_path / "vision.safetensors", "vision")
    written = json.loads((tmp_path / "vision.import.json").read_text())
    assert sorted([*written["used"].values(), *written["unused"]]) == sorted(state)
    assert written["unused"]["model.mm_projector.readout.0.bias"] == "not asked for (--part vision)"
    assert written["unused"]["model.vision_encoder.rotary_pos_emb.inv_freq"] == "computed from the sizes, not learnt"
    assert load_file(tmp_path / "vision.safetensors").keys() == written["used"].keys()
    assert report.lines()[0] == f"{source}: VideoLLaMA 3 (hub, remote code)"


@pytest.mark.parametrize("model", [MODEL, None], ids=["recipe", "itself"])
def test_a_wrong_a_missing_and_an_extra_name_are_each_said(model: ModelConfig | None, port, tmp_path: Path) -> None:
    state = videollama3(port, "training repository")
    state["model.layers.1.mlp.up_proj.weight"] = torch.zeros(64, 41)
    del state["model.vision_encoder.vision_encoder.encoder.layers.0.layer_norm2.bias"]
    state["model.surprise.weight"] = torch.zeros(1)
    state["model.layers.0.mlp.extra"] = torch.zeros(1)
    message = said(write(state, tmp_path / "w"), tmp_path / "ours.safetensors", model)
    assert "wrong shape: llm.model.layers.1.mlp.up_proj.weight is (64, 41), not (64, 40)" in message
    assert "missing: vision_encoder.encoder.layers.0.layer_norm2.bias" in message
    assert "unknown: model.surprise.weight, llm.model.layers.0.mlp.extra" in message


def test_a_layer_that_is_not_there_at_all_is_missing(port, tmp_path: Path) -> None:
    state = videollama3(port, "transformers")
    lost = {name: t for name, t in state.items() if "language_model.layers.0." not in name}
    assert "missing llm.model.layers.0" in said(write(lost, tmp_path / "a"), tmp_path / "ours.safetensors")
    lost = {name: t for name, t in state.items() if "language_model.layers.1." not in name}
    message = said(write(lost, tmp_path / "b"), tmp_path / "ours.safetensors", MODEL)
    assert "missing: llm.model.layers.1.self_attn.q_proj.weight" in message


def test_names_of_no_layout_are_said(tmp_path: Path) -> None:
    source = write({"visual.conv1.weight": torch.ones(1)}, tmp_path / "clip.safetensors")
    message = said(source, tmp_path / "ours.safetensors")
    assert "no layout fits its names (visual.conv1.weight, ...)" in message
    assert LAYOUTS[0].name in message


def one_patch() -> tuple[SiglipVisionModel, Tensor]:
    """SigLIP's tower for pictures of one patch without a position, and such a picture; then our rotations turn nothing."""
    tower = siglip(image_size=PATCH).vision_model
    tower.embeddings.position_embedding.weight.data.zero_()
    return tower, torch.randn(1, 3, PATCH, PATCH)


@pytest.mark.parametrize("is_whole", [True, False])
def test_siglip_gives_its_features_and_loses_positions_and_head(is_whole: bool, tmp_path: Path) -> None:
    tower, picture = one_patch()
    prefix = "vision_model." if is_whole else ""
    state = {f"{prefix}{name}": tensor for name, tensor in tower.state_dict().items()}
    if is_whole:
        state |= {"text_model.head.weight": torch.ones(1), "logit_scale": torch.ones(1), "logit_bias": torch.ones(1)}
    report = import_weights(write(state, tmp_path / "siglip"), tmp_path / "ours.safetensors", "vision", MODEL)
    unused = {name for name in state if "position_embedding" in name or ".head." in f".{name}" or "logit" in name}
    assert report.unused.keys() == unused
    assert all(report.unused.values())
    assert MODEL.vision is not None
    encoder = VisionEncoder(MODEL.vision)
    load_vision_weights(encoder, str(tmp_path / "ours.safetensors"))
    positions, cu_seqlens = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0, 1], dtype=torch.int32)
    features = encoder.eval()(picture.flatten(1), positions, cu_seqlens, 1)
    assert_close(features, tower(picture).last_hidden_state[0], atol=ATOL, rtol=ATOL)


def test_vl3_siglip_navit_is_the_encoder_alone(port, tmp_path: Path) -> None:
    state = port.model.vision_model.state_dict()
    report = import_weights(write(state, tmp_path / "navit"), tmp_path / "ours.safetensors")
    assert (report.layout, len(report.used)) == ("VL3-SigLIP-NaViT", len(state))
    ours = load_file(tmp_path / "ours.safetensors")
    assert_close(ours, {f"vision_encoder.{name}": tensor for name, tensor in state.items()}, atol=0, rtol=0)


def language_model(architecture: str, is_tied: bool) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        architecture, **sizes, intermediate_size=48, vocab_size=60, head_dim=8, tie_word_embeddings=is_tied
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)
    return model.eval()


def llm_config(architecture: str, is_tied: bool, **changes: object) -> LLMConfig:
    config = LLMConfig(32, 2, 4, 2, 48, 60, "none", architecture, rope_theta=10_000.0, tie_word_embeddings=is_tied)
    return replace(config, **changes)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "qwen3"])
def test_a_language_model_becomes_a_folder_that_loads_with_equal_logits(
    architecture: str, is_tied: bool, tmp_path: Path
) -> None:
    theirs = language_model(architecture, is_tied)
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    report = import_weights(str(tmp_path / "theirs"), tmp_path / "ours", "llm")
    assert report.layout == "language model"
    assert (tmp_path / "ours" / "tokenizer.json").read_text() == "{}"
    config = llm_config(architecture, is_tied, weights=str(tmp_path / "ours"))
    ids = torch.arange(11)
    ours = load_llm(config).eval()
    hidden = run_decoder(ours, ours.get_input_embeddings()(ids), torch.tensor([0, 11], dtype=torch.int32), 11)
    assert_close(predict(ours, hidden), theirs(ids[None]).logits[0], atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("layout", ["transformers", "hub, remote code"])
def test_the_language_model_of_a_videollama3_comes_out_alone(layout: str, port, tmp_path: Path) -> None:
    source = write(videollama3(port, layout), tmp_path / "whole")
    with pytest.raises(WeightsError, match=r"config\.json.*--recipe"):
        import_weights(source, tmp_path / "ours", "llm")
    settings = port.config.to_dict()
    if layout != "transformers":
        settings = {**settings.pop("text_config"), "model_type": "videollama3_qwen2", "vision_encoder": None}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(settings))
    import_weights(source, tmp_path / "ours", "llm")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    ids = torch.arange(9)[None]
    assert_close(ours(ids).logits, port(ids).logits, atol=0, rtol=0)


def write_llm(theirs: PreTrainedModel, folder: Path, **others: Tensor) -> str:
    """A checkpoint of transformers with tensors that it would not have written."""
    theirs.config.save_pretrained(folder)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != HEAD}
    return write({**state, **others}, folder / "model.safetensors") and str(folder)


def test_a_stored_head_that_is_tied_must_equal_the_embeddings(tmp_path: Path) -> None:
    theirs = language_model("qwen2", True)
    embeddings = theirs.get_input_embeddings().weight.detach()
    model = replace(MODEL, llm=llm_config("qwen2", True))
    source = write_llm(theirs, tmp_path / "equal", **{HEAD: embeddings.clone()})
    report = import_weights(source, tmp_path / "ours.safetensors", "llm", model)
    assert report.unused == {HEAD: "equal to the embeddings, with which it is tied"}
    source = write_llm(theirs, tmp_path / "other", **{HEAD: embeddings + 1})
    assert "lm_head.weight differs from the embeddings" in said(source, tmp_path / "other.safetensors", model, "llm")


def test_added_tokens_get_the_mean_row(tmp_path: Path) -> None:
    theirs = language_model("llama", False)
    theirs.save_pretrained(tmp_path / "theirs")
    model = replace(MODEL, llm=llm_config("llama", False, vocab_size=64))
    report = import_weights(str(tmp_path / "theirs"), tmp_path / "ours", "llm", model)
    assert report.padded["llm.lm_head.weight"] == "rows 60 to 63 are the mean of those before"
    ours = load_llm(replace(model.llm, weights=str(tmp_path / "ours")))
    for name, table in (
        ("model.embed_tokens.weight", theirs.get_input_embeddings().weight),
        (HEAD, theirs.lm_head.weight),
    ):
        rows = ours.get_parameter(name)
        assert torch.equal(rows[:60], table)
        assert_close(rows[60:], table.mean(dim=0).expand(4, -1))
    fewer = replace(MODEL, llm=llm_config("llama", False, vocab_size=59))
    assert "is (60, 32), not (59, 32)" in said(str(tmp_path / "theirs"), tmp_path / "fewer", fewer, "llm")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rope_theta": 1e6}, "rope_theta is 10000: set model.llm.rope_theta, which is 1e+06"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-06: set model.llm.rms_norm_eps, which is 1e-05"),
        ({"num_heads": 8, "num_kv_heads": 4}, "num_attention_heads is 4: set model.llm.num_heads, which is 8"),
    ],
)
def test_numbers_that_no_shape_shows_are_compared(changes: dict[str, object], word: str, tmp_path: Path) -> None:
    language_model("qwen2", True).save_pretrained(tmp_path / "theirs")
    model = replace(MODEL, llm=llm_config("qwen2", True, **changes))
    assert word in said(str(tmp_path / "theirs"), tmp_path / "ours", model, "llm")


def test_a_recipe_of_clips_takes_a_language_model_alone(port, tmp_path: Path) -> None:
    source = write(videollama3(port, "transformers"), tmp_path / "w")
    assert "the recipe's encoder takes clips" in said(source, tmp_path / "ours.safetensors", CLIP_MODEL)
    assert "--part head: it is one of all, vision, llm" in said(source, tmp_path / "ours.safetensors", part="head")
