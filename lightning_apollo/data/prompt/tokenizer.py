"""A small byte-level tokenizer with the chat tokens of Qwen2.5, for the tiny recipe and the tests.

Large models bring their own tokenizer; this one exists so that nothing has to be downloaded to train.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lightning_apollo.data.prompt.template import IM_END, IM_START, PLACEHOLDER, STREAM_END, STREAM_START
from lightning_apollo.data.shapes import dataset as shapes

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END, PLACEHOLDER, STREAM_START, STREAM_END]

# A word, a whole number such as 12.5, punctuation or white space. Qwen2.5 cuts numbers into digits instead;
# whole numbers keep a time stamp at four tokens.
_PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}+(?:\.\p{N}+)?| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

_CHAT_FRAMES = ["system\n", "user\n", "assistant\n", "stream\n", "\n"]


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 512) -> Tokenizer:
    """Byte-level BPE learnt from `corpus`: at most `vocab_size` entries, every text representable, ids reproducible."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files that transformers' AutoTokenizer loads from a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [IM_START, PLACEHOLDER, STREAM_START, STREAM_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def tiny_corpus() -> list[str]:
    """The text that conf/model/tiny_tokenizer is trained on: the template's words, stamps and the shapes set."""
    stamps = [f"Time {half_seconds / 2:.1f}s:" for half_seconds in range(20)]
    sentences = shapes.texts()
    words = sorted({word.strip(",.?") for sentence in sentences for word in sentence.split()})
    return _CHAT_FRAMES * 50 + stamps * 20 + [f"{word} {word}" for word in words] * 10 + sentences
