"""A GGUF file written with the gguf package, against transformers' class with the weights that went into it."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import lightning_apollo.weights.gguf_files
from lightning_apollo.models.config import LLMConfig
from lightning_apollo.models.llm import load_llm, load_tokenizer, predict, run_decoder
from lightning_apollo.structures import WeightsError
from lightning_apollo.weights.importing import import_weights
from tests.tolerances import MODEL

HEADS, KV_HEADS, WIDTH, HIDDEN, LAYERS = 4, 2, 32, 64, 2
BYTES = sorted(gguf_byte for gguf_byte in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?ĠĊ")
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "ab", "abc"]
MERGES = ["a b", "ab c"]
NAMES = {  # ours of transformers -> GGUF's, in a layer
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)
    return model.eval()


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a head in GGUF's order: the two halves that a rotation pairs stand in turn."""
    halves = weight.view(num_heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    for name, tensor in tensors_in_gguf(model).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_in_gguf(model: LlamaForCausalLM) -> dict[str, Tensor]:
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for layer in range(LAYERS):
        for ours, theirs in NAMES.items():
            tensor = state[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs)
            found[f"blk.{layer}.{theirs}.weight"] = tensor if heads is None else interleaved(tensor, heads).contiguous()
    return found


@pytest.mark.parametrize("name", ["tiny.gguf", ""])
def test_a_gguf_becomes_a_folder_with_equal_logits_and_its_tokenizer(name: str, tmp_path: Path) -> None:
    theirs = llama()
    (tmp_path / "package").mkdir()
    write_gguf(theirs, tmp_path / "package" / "tiny.gguf")
    report = import_weights(str(tmp_path / "package" / name), tmp_path / "ours", "llm")
    assert report.layout == "language model, dequantised from GGUF"
    assert (len(report.used), report.unused) == (2 + LAYERS * len(NAMES), {})
    sizes = (WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, len(TOKENS))
    config = LLMConfig(*sizes, "none", "llama", rope_theta=10_000.0, rms_norm_eps=1e-5, weights=str(tmp_path / "ours"))
    ours, ids = load_llm(config).eval(), torch.arange(20)
    hidden = run_decoder(ours, ours.get_input_embeddings()(ids), torch.tensor([0, 20], dtype=torch.int32), 20)
    tolerance = MODEL[torch.float32]
    assert_close(predict(ours, hidden), theirs(ids[None]).logits[0], atol=tolerance, rtol=tolerance)
    tokenizer = load_tokenizer(str(tmp_path / "ours"))
    assert tokenizer.encode("abc ba", add_special_tokens=False) == [TOKENS.index(t) for t in ("abc", "Ġ", "b", "a")]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert "quantization_config" not in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_a_broken_file_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        import_weights(str(tmp_path / "nowhere.gguf"), tmp_path / "ours", "llm")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(WeightsError, match="GGUF that"):
        import_weights(str(tmp_path / "broken.gguf"), tmp_path / "ours", "llm")
    monkeypatch.setattr(lightning_apollo.weights.gguf_files, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install 'accelerate>=[\d.]+' 'gguf>=[\d.]+'$"):
        import_weights(str(tmp_path / "broken.gguf"), tmp_path / "ours", "llm")
