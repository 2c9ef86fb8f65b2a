"""Parts of bench_connector_start.py: the language model in other units, and the reader of ONNX files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.places import ROOT


def test_a_language_model_with_small_embeddings_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from bench_connector_start import rescale  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-3,
    )
    sizes.tie_word_embeddings = True
    LlamaForCausalLM(sizes).save_pretrained(tmp_path / "plain")
    rescale(tmp_path / "plain", tmp_path / "small", 0.125)
    plain, small = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "small"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-6)
    deviations: list[Tensor] = [model.get_input_embeddings().weight.std() for model in (small, plain)]
    assert (deviations[0] / deviations[1]).item() == pytest.approx(0.125)


def test_tensors_and_nodes_are_read_from_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes by hand: a graph (7) of a node (1) and a tensor (5) of 2×3 float32."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from focus_tower import read_onnx  # pyright: ignore[reportMissingImports]

    def message(*fields: tuple[int, bytes]) -> bytes:
        return b"".join(bytes([number << 3 | 2, len(value)]) + value for number, value in fields)

    values = torch.arange(6.0).view(2, 3)
    dims = bytes([1 << 3, 2, 1 << 3, 3, 2 << 3, 1])  # 2, 3, and the data type float
    tensor = dims + message((8, b"a.weight"), (9, values.numpy().tobytes()))
    node = message((1, b"x"), (1, b"a.weight"), (2, b"y"), (3, b"/a/MatMul"), (4, b"MatMul"))
    (tmp_path / "one.onnx").write_bytes(bytes([1 << 3, 150, 1]) + message((7, message((1, node), (5, tensor)))))
    graph = read_onnx(tmp_path / "one.onnx")
    assert graph.inputs == {"/a/MatMul": ["x", "a.weight"]}
    assert torch.equal(graph.tensors["a.weight"], values)
