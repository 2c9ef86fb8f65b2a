"""Decoding with the cache against running whole sequences again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_apollo.models.kv_cache import KeyValueCache
from lightning_apollo.models.llm import LanguageModel, build_llm, run_decoder, run_next_tokens
from lightning_apollo.structures import cumulative_lengths
from tests.models.samples import MODEL

WIDTH = MODEL.llm.hidden_size
LENGTHS = [5, 1, 9]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def llm(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(1)
    return build_llm(replace(MODEL.llm, architecture=request.param, initializer_range=0.2)).eval()


def sequences(num_new_tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length + num_new_tokens, WIDTH, generator=generator) for length in LENGTHS]


def packed(llm: LanguageModel, parts: list[Tensor], cache: KeyValueCache | None = None) -> Tensor:
    lengths = [part.shape[0] for part in parts]
    return run_decoder(llm, torch.cat(parts), cumulative_lengths(lengths), max(lengths), cache)


@torch.inference_mode()
def test_steps_of_ragged_samples_equal_each_sample_run_whole(llm: LanguageModel) -> None:
    whole = sequences(num_new_tokens=3)
    cache = KeyValueCache(LENGTHS, 3)
    prompts = [sequence[:length] for sequence, length in zip(whole, LENGTHS, strict=True)]
    filled = packed(llm, prompts, cache).split(LENGTHS)
    steps = [
        run_next_tokens(llm, torch.stack([s[n + i] for s, n in zip(whole, LENGTHS, strict=True)]), cache)
        for i in range(3)
    ]
    for row, (sequence, length) in enumerate(zip(whole, LENGTHS, strict=True)):
        expected = packed(llm, [sequence])
        torch.testing.assert_close(filled[row], expected[:length])
        torch.testing.assert_close(torch.stack([step[row] for step in steps]), expected[length:])
    assert cache.lengths == [8, 4, 12]


@torch.inference_mode()
def test_what_is_kept_continues_in_its_new_order(llm: LanguageModel) -> None:
    whole = sequences(num_new_tokens=1)
    cache = KeyValueCache(LENGTHS, 1)
    packed(llm, [sequence[:-1] for sequence in whole], cache)
    cache.keep([2, 0])
    hidden = run_next_tokens(llm, torch.stack([whole[2][-1], whole[0][-1]]), cache)
    torch.testing.assert_close(hidden, torch.stack([packed(llm, [whole[2]])[-1], packed(llm, [whole[0]])[-1]]))
