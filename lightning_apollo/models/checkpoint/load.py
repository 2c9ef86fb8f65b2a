"""Weights in and out of the model: our own safetensors files, and name tables to and from published checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from lightning_apollo.models.apollo.config import TowerConfig
from lightning_apollo.models.apollo.fused_encoder import FusedEncoder
from lightning_apollo.models.apollo.internvideo2 import RELEASED_PATCHES, InternVideo2, resize_positions
from lightning_apollo.models.checkpoint.files import open_weights, stored, write_stored
from lightning_apollo.models.config import ModelConfig
from lightning_apollo.models.llm import load_llm
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.models.vision_encoder import VisionEncoder
from lightning_apollo.structures import WeightsError

Value = TypeVar("Value")  # what stands under a name: a tensor, or where it is stored

# ours -> transformers' `video_llama_3` port; the rest of each name is the same in both
PORT_PREFIXES = {
    "vision_encoder.": "model.vision_model.",
    "connector.": "model.projector.",
    "llm.model.": "model.language_model.",
    "llm.lm_head.": "lm_head.",
}
# parts of SigLIP that the any-resolution encoder does not have (VideoLLaMA 3 §2.1)
SIGLIP_UNUSED = ("embeddings.position_embedding.", "head.")
# a name that shows where a published encoder of that kind lies in a checkpoint
LANDMARKS = {
    "siglip": "embeddings.patch_embedding.weight",
    "internvideo2": "patch_embed.proj.weight",
    "vjepa2": "encoder.embeddings.patch_embeddings.proj.weight",
    "videomae": "embeddings.patch_embeddings.projection.weight",
}
# VideoMAE's published names -> those of transformers' class
PUBLISHED_NAMES = {"attention.q_bias": "attention.query.bias", "attention.v_bias": "attention.value.bias"}


def to_port_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """Our state dict under the names of transformers' `VideoLlama3ForConditionalGeneration`."""
    return _rename(state, PORT_PREFIXES)


def from_port_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """The port's state dict under our names."""
    return _rename(state, {theirs: ours for ours, theirs in PORT_PREFIXES.items()})


def save_weights(model: nn.Module, path: Path) -> None:
    """Write `whole_weights` to a safetensors file, all or nothing. Of several ranks every one calls it, and rank 0 writes."""
    state = whole_weights(model)
    if _is_first_rank():
        write_weights(state, path)


def whole_weights(model: nn.Module, masters: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every parameter and persistent buffer on the CPU, tied ones once, under the first of their names.

    `masters`, by name, stand in the place of the parameters that are rounded from them.
    Where ranks hold slices of the parameters, every rank calls it: they are put together one by one, and rank 0 alone keeps
    them. The other ranks get nothing.
    """
    tied = tied_names(model)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        held: Tensor = masters[name] if masters and name in masters else tensor
        whole = held.full_tensor() if isinstance(held, DTensor) else held
        if _is_first_rank():
            state[name] = whole.detach().contiguous().cpu()
    return state


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, all or nothing."""
    write_stored({name: stored(tensor) for name, tensor in state.items()}, path)


def tied_names(model: nn.Module) -> set[str]:
    """Names of parameters that stand for the same one as an earlier name."""
    first: dict[int, str] = {}
    parameters = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if first.setdefault(id(parameter), name) != name}


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model from a file of `save_weights`; a missing or an unknown name is an error that lists them."""
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}): train or fetch it again") from error
    result = model.load_state_dict(state, strict=False)
    tied = tied_names(model)
    missing = [name for name in result.missing_keys if name not in tied]
    if missing or result.unexpected_keys:
        raise WeightsError(f"{path}: missing {_first(missing)}; unknown {_first(result.unexpected_keys)}")


def load_pretrained(model: VideoLMM, config: ModelConfig) -> None:
    """Start encoder and LLM from the published weights that the recipe names; what names none keeps its random weights."""
    if (
        isinstance(model.vision_encoder, VisionEncoder)
        and config.vision is not None
        and config.vision.weights is not None
    ):
        load_vision_weights(model.vision_encoder, config.vision.weights)
    if isinstance(model.vision_encoder, FusedEncoder) and config.fused is not None:
        for name, tower in config.fused.towers.items():
            if tower.weights is not None:
                load_tower_weights(model.vision_encoder.towers[name].get_submodule("model"), tower)
    if config.llm.weights is not None:
        model.llm = load_llm(config.llm)


def load_vision_weights(encoder: VisionEncoder, name_or_folder: str) -> None:
    """Fill the encoder from SigLIP, VL3-SigLIP-NaViT or a whole VideoLLaMA 3 (papers.md 3.1): a hub name, folder or file."""
    state = read_part(name_or_folder, LANDMARKS["siglip"])
    parts = ("embeddings.", "encoder.", "post_layernorm.", "head.")
    state = {name: tensor for name, tensor in state.items() if name.startswith(parts)}
    encoder.load_state_dict({name: t for name, t in state.items() if not name.startswith(SIGLIP_UNUSED)})


def load_tower_weights(tower: nn.Module, config: TowerConfig) -> None:
    """Fill one tower of Apollo's encoder from a hub name, folder or file; what the tower does not have (layers after the
    selected one, heads) is left out, what the weights lack or have in another size is a WeightsError."""
    assert config.weights is not None  # the caller asks only then
    state = read_part(config.weights, LANDMARKS[config.kind])
    for old, new in PUBLISHED_NAMES.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    wanted = tower.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise WeightsError(f"{config.weights}: no {_first(missing)}")
    if isinstance(tower, InternVideo2):
        state["pos_embed"] = _fitting_positions(state["pos_embed"], tower, config.weights)
    sizes = {name: (tuple(state[name].shape), tuple(tensor.shape)) for name, tensor in wanted.items()}
    wrong = [f"{name} is {theirs}, in the recipe {ours}" for name, (theirs, ours) in sizes.items() if theirs != ours]
    if wrong:
        raise WeightsError(f"{config.weights}: {_first(wrong)}")
    tower.load_state_dict({name: state[name] for name in wanted})


def read_part(name_or_path: str, landmark: str) -> dict[str, Tensor]:
    """The tensors of one part of published weights, without the prefix that the part has there.

    `landmark` is a name inside the part that nothing else ends with: what stands before it is the prefix.
    """
    tensors = open_weights(name_or_path)
    prefixes = {name.removesuffix(landmark) for name in tensors if name.endswith(landmark)}
    if len(prefixes) != 1:
        raise WeightsError(
            f"{name_or_path}: {len(prefixes)} parts with a {landmark} among {len(tensors)} tensors, not one"
        )
    prefix = prefixes.pop()
    return {name.removeprefix(prefix): tensor.read() for name, tensor in tensors.items() if name.startswith(prefix)}


def _fitting_positions(table: Tensor, tower: InternVideo2, weights: str) -> Tensor:
    """(1, P, D) positions of a checkpoint for the clips of the tower."""
    if table.shape[1] == tower.pos_embed.shape[1]:
        return table
    num_frames, rest = divmod(table.shape[1] - 1, RELEASED_PATCHES)
    if rest or not num_frames:
        raise WeightsError(
            f"{weights}: pos_embed has {table.shape[1]} places, no whole frames of 16×16 and a class token"
        )
    return resize_positions(table.float(), tower.grid, num_frames)


def _rename(state: Mapping[str, Value], prefixes: Mapping[str, str]) -> dict[str, Value]:
    renamed = {}
    for name, tensor in state.items():
        matches = [(old, new) for old, new in prefixes.items() if name.startswith(old)]
        if not matches:
            raise ValueError(f"no counterpart is known for {name}; prefixes are {', '.join(prefixes)}")
        old, new = max(matches)  # the longest of matching prefixes
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def _is_first_rank() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
