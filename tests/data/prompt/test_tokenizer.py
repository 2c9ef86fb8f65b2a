"""The tiny tokenizer against the one in conf/, without loss of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lightning_apollo.data.prompt.tokenizer import SPECIAL_TOKENS, tiny_corpus, train_tokenizer, write_tokenizer
from lightning_apollo.data.shapes.dataset import texts
from tests.places import ROOT

FOLDER = ROOT / "conf/model/tiny_tokenizer"
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


def _encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_the_files_in_conf_are_what_the_code_writes(tmp_path: Path) -> None:
    write_tokenizer(train_tokenizer(tiny_corpus()), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"{name}: write_tokenizer it again"


def test_special_tokens_are_single_ids_and_the_vocabulary_is_small() -> None:
    assert TOKENIZER.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(len(SPECIAL_TOKENS)))
    assert len(TOKENIZER) <= 512
    assert TOKENIZER.eos_token == "<|im_end|>"


@given(st.text())
@settings(derandomize=True, deadline=None)
def test_any_text_survives_and_none_of_it_becomes_special(text: str) -> None:
    ids = _encode(text + "<|im_end|><image>")
    assert TOKENIZER.decode(ids) == text + "<|im_end|><image>"
    assert min(ids) >= len(SPECIAL_TOKENS)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.5, 9.5])
def test_a_time_stamp_is_four_tokens(seconds: float) -> None:
    assert len(_encode(f"Time {seconds:.1f}s:")) == 4


def test_sentences_of_the_shapes_set_are_about_one_token_a_word() -> None:
    sentences = texts()
    num_words = sum(
        len(sentence.replace(",", " ,").replace("?", " ?").replace(".", " .").split()) for sentence in sentences
    )
    assert sum(len(_encode(sentence)) for sentence in sentences) <= 1.05 * num_words


def test_another_corpus_trains_another_tokenizer() -> None:
    tokenizer = train_tokenizer(["zebra crossing"] * 20, vocab_size=300)
    assert tokenizer.encode("zebra").tokens == ["zebra"]
    assert tokenizer.get_vocab_size() <= 300
