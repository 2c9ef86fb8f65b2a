"""What stands beside the weights of a language model: its configuration and its tokenizer."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from lightning_apollo.models.llm import LLMConfig, build_llm
from lightning_apollo.structures import WeightsError

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
)
_REMOTE_TYPES = {"videollama3_qwen2": "qwen2"}  # model_type of remote code -> what its language model is
# What changes a model's output and leaves its shapes alone: transformers' name -> the recipe's
_COMPARED = {
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}


def llm_config_of(path: Path) -> PreTrainedConfig | None:
    """The configuration of the language model in a folder; None where none is there that transformers knows."""
    file = path / "config.json"
    if not file.is_file():
        return None
    settings: dict[str, Any] = json.loads(file.read_text())
    settings = settings.get("text_config", settings)
    kind: str = settings.pop("model_type", "")
    kind = _REMOTE_TYPES.get(kind, kind)
    return AutoConfig.for_model(kind, **settings) if kind in CONFIG_MAPPING else None


def check_llm(llm: LLMConfig, theirs: PreTrainedConfig, source: str) -> None:
    """Raises WeightsError where the recipe would run these weights with other numbers than they were trained with."""
    ours = _numbers(config_of_recipe(llm))
    for name, value in _numbers(theirs).items():
        if value is not None and not math.isclose(ours[name], value, rel_tol=1e-6):
            raise WeightsError(
                f"{source}: {name} is {value:g}: set model.llm.{_COMPARED[name]}, which is {ours[name]:g}"
            )


def config_of_recipe(llm: LLMConfig) -> PreTrainedConfig:
    """What transformers makes of the recipe's numbers."""
    with torch.device("meta"):
        return build_llm(llm).config


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer's files, those that there are."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)


def _numbers(config: PreTrainedConfig) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: rope.get(name) if name == "rope_theta" else getattr(config, name, None) for name in _COMPARED}
