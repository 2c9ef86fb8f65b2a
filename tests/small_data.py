"""Small manifests with real files, and the tiny tokenizer."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.encode import ChatTokenizer
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.recipe.conf import conf_folder


def tiny_tokenizer() -> ChatTokenizer:
    return load_tokenizer(str(conf_folder() / "model" / "tiny_tokenizer"))


def tiny_text() -> TextCounter:
    return TextCounter(tiny_tokenizer(), "tiny")


def tiny_settings(**changed: Any) -> Preprocessing:
    """Preprocessing with the tiny tokenizer and patches of 8 pixels."""
    return replace(Preprocessing(tiny_tokenizer(), 8, image_merge_size=1, video_merge_size=2), **changed)


def with_settings(preparer: Preparer, **changed: Any) -> Preparer:
    """The preparer with other settings of its preprocessing."""
    return replace(preparer, settings=replace(preparer.settings, **changed))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_pictures(folder: Path, num_rows: int, broken: Collection[int] = ()) -> Path:
    """A manifest of questions about pictures, each of another colour; those in `broken` are no pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in range(num_rows):
        path = folder / f"{row:03d}.png"
        if row in broken:
            path.write_bytes(b"no picture")
        else:
            Image.new("RGB", (40, 30), (row * 7 % 256, 80, 255 - row * 5 % 256)).save(path)
        rows.append({"image": path.name, "conversations": turns("<image>\nWhat colour?", f"number {row}")})
    return write_rows(folder / "pictures.jsonl", rows)
