"""Weights in and out of the model: our own safetensors files, and name tables to and from published checkpoints."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_apollo.models.llm import load_llm
from lightning_apollo.models.video_lmm import ModelConfig, VideoLMM
from lightning_apollo.models.vision_encoder import VisionEncoder

# ours -> transformers' `video_llama_3` port; the rest of each name is the same in both
PORT_PREFIXES = {
    "vision_encoder.": "model.vision_model.",
    "connector.": "model.projector.",
    "llm.model.": "model.language_model.",
    "llm.lm_head.": "lm_head.",
}
# parts of SigLIP that the any-resolution encoder does not have (VideoLLaMA 3 §2.1)
SIGLIP_UNUSED = ("embeddings.position_embedding.", "head.")


def to_port_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of transformers' `VideoLlama3ForConditionalGeneration`."""
    return _rename(state, PORT_PREFIXES)


def from_port_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's state dict under our names."""
    return _rename(state, {theirs: ours for ours, theirs in PORT_PREFIXES.items()})


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes every parameter and persistent buffer once (tied ones share a name) to a safetensors file, all or nothing."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            state[name] = tensor.detach().contiguous().cpu()
        seen.add(tensor.data_ptr())
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"format": "pt"})
    partial.replace(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills the model from a file of `save_weights`; a missing or an unknown name is an error that lists them."""
    state = load_file(path)
    tied = {name for name in _tied_names(model) if name not in state}
    result = model.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if name not in tied]
    if missing or result.unexpected_keys:
        raise ValueError(f"{path}: missing {_first(missing)}; unknown {_first(result.unexpected_keys)}")


def load_pretrained(model: VideoLMM, config: ModelConfig) -> None:
    """Starts encoder and LLM from the published weights that the recipe names; what names none keeps its random weights."""
    if config.vision.weights is not None:
        load_vision_weights(model.vision_encoder, config.vision.weights)
    if config.llm.weights is not None:
        model.llm = load_llm(config.llm)


def load_vision_weights(encoder: VisionEncoder, name_or_folder: str) -> None:
    """Fills the encoder from a folder or hub name that holds SigLIP, VL3-SigLIP-NaViT or a whole VideoLLaMA 3 (papers.md 3.1).

    The encoder's names are the same in all of them behind a prefix, which the patch embedding's name shows.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = Path(snapshot_download(name_or_folder, allow_patterns=["*.safetensors", "*.json"]))
    files = sorted(folder.glob("*.safetensors"))
    landmark = "embeddings.patch_embedding.weight"
    prefixes = {name.removesuffix(landmark) for file in files for name in _names(file) if name.endswith(landmark)}
    if len(prefixes) != 1:
        raise ValueError(
            f"{name_or_folder}: {len(prefixes)} vision encoders in {len(files)} safetensors files, not one"
        )
    prefix = prefixes.pop()
    state: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  safe_open is no mapping
                part = name.removeprefix(prefix)
                if name.startswith(prefix) and part.startswith(("embeddings.", "encoder.", "post_layernorm.", "head.")):
                    state[part] = tensors.get_tensor(name)
    encoder.load_state_dict({name: t for name, t in state.items() if not name.startswith(SIGLIP_UNUSED)})


def _rename(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        matches = [(old, new) for old, new in prefixes.items() if name.startswith(old)]
        if not matches:
            raise ValueError(f"no counterpart is known for {name}; prefixes are {', '.join(prefixes)}")
        old, new = max(matches)  # the longest of matching prefixes
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def _names(file: Path) -> Iterator[str]:
    with safe_open(file, framework="pt") as tensors:
        yield from tensors.keys()


def _tied_names(model: nn.Module) -> set[str]:
    """Names of the state dict that share their memory with an earlier one."""
    first: dict[int, str] = {}
    return {
        name for name, tensor in model.state_dict().items()
        if tensor.numel() and first.setdefault(tensor.data_ptr(), name) != name
    }  # fmt: skip


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "nothing"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
