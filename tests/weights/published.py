"""Published checkpoints of transformers' classes with random weights in every layout. Names are written
out here, apart from the tables of the package.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipConfig, SiglipModel, VideoLlama3ForConditionalGeneration

from tests.models.samples import PATCH

# What the port's names become in the two layouts of VideoLLaMA 3's authors
REPOSITORY = {
    "model.vision_model.": "model.vision_encoder.vision_encoder.",
    "model.projector.": "model.mm_projector.",
    "model.language_model.": "model.",
}
REMOTE_CODE = {**REPOSITORY, "model.vision_model.": "model.vision_encoder."}
VIDEOLLAMA3 = {"training repository": REPOSITORY, "hub, remote code": REMOTE_CODE, "transformers": {}}


def renamed(state: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        result[prefixes.get(old, "") + name.removeprefix(old)] = tensor
    return result


def videollama3(port: VideoLlama3ForConditionalGeneration, layout: str) -> dict[str, Tensor]:
    """The port's tensors under the names of a layout of VIDEOLLAMA3."""
    return renamed(port.state_dict(), VIDEOLLAMA3[layout])


def write(state: dict[str, Tensor], file: Path) -> str:
    """Save it as a checkpoint of several files where `file` is a folder, as its suffix says where it is a file."""
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    if file.suffix in (".pt", ".bin"):
        torch.save(state, file)
    elif file.suffix:
        save_file(state, file)
    else:
        file.mkdir(parents=True)
        names = sorted(state)
        for number, part in enumerate((names[::2], names[1::2])):
            save_file({name: state[name] for name in part}, file / f"model-{number}.safetensors")
    return str(file)


def siglip(image_size: int = 2 * PATCH) -> SiglipModel:
    """Text and vision, of the width of the tests' encoder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = SiglipModel(
        SiglipConfig(
            text_config={**sizes, "vocab_size": 64, "projection_size": 32},
            vision_config={**sizes, "patch_size": PATCH, "image_size": image_size},
        )
    )
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)
    return model.eval()
