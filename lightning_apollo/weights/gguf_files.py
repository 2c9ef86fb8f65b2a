"""Language models from GGUF files, dequantised by transformers. Needs `gguf` and `accelerate`, an optional extra."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from lightning_apollo.machine.packages import extra_command
from lightning_apollo.models.checkpoint.files import StoredTensor, stored, weight_files
from lightning_apollo.structures import WeightsError

_NEEDED = ("gguf", "accelerate")  # packages that transformers reads such a file with


@dataclass(frozen=True)
class GGUFSource:
    """A GGUF file as transformers reads it: float32, and whole in memory."""

    file: Path
    tensors: dict[str, StoredTensor]
    config: PreTrainedConfig

    def write_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer that the file carries."""
        AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name).save_pretrained(folder)


def read_gguf(source: str) -> GGUFSource | None:
    """The GGUF file that `source` is, or the only one in a folder without other weights; None for any other source."""
    path = Path(source)
    has_others = path.is_dir() and weight_files(path)
    files = [path] if path.suffix == ".gguf" else [] if has_others else sorted(path.glob("*.gguf"))
    if len(files) != 1:
        return None
    if not files[0].is_file():
        raise WeightsError(f"{source}: no such file")
    if not all(map(find_spec, _NEEDED)):
        raise WeightsError(f"{source}: GGUF needs {' and '.join(_NEEDED)}: {extra_command('gguf')}")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            files[0].parent, gguf_file=files[0].name, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"{source}: no GGUF that can be read: {str(error).splitlines()[0]}") from error
    vars(model.config).pop("quantization_config", None)  # true of the file, not of what is written from here
    is_tied = model.config.tie_word_embeddings
    state = {name: tensor for name, tensor in model.state_dict().items() if not (is_tied and name == "lm_head.weight")}
    return GGUFSource(files[0], {name: stored(tensor) for name, tensor in state.items()}, model.config)
