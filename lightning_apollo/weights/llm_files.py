"""Configuration and tokenizer files beside a language model's weights."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
)
_REMOTE_TYPES = {"videollama3_qwen2": "qwen2"}  # model_type of remote code -> what its language model is


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


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files, those that there are."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
