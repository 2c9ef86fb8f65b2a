"""Greedy answers against transformers' own generation with the same weights, and batched against one by one."""

from dataclasses import replace

import pytest
import torch

from lightning_apollo.inference.generate import generate
from lightning_apollo.models.reduce import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import IGNORE_INDEX, Sample
from tests.models.samples import PLACEHOLDER, PORT_VIDEO, image, our_model, pack, port_model, port_pixels, sample, video

END = 5


@pytest.fixture(scope="module")
def port():
    return port_model()


@pytest.fixture(scope="module")
def model(port) -> VideoLMM:
    return our_model(port, ReducerConfig(kind="diff_fp"))


def prompt(*visuals, seed: int) -> Sample:
    one = sample(*visuals, seed=seed)
    return replace(one, labels=torch.full_like(one.labels, IGNORE_INDEX))


def test_greedy_answers_equal_the_ports(port, model: VideoLMM) -> None:
    """transformers' `generate`, with its cache, on a video whose reduction drops tokens."""
    one = prompt(video(3, 28, 56, 1, static=True), seed=1)
    inputs = port_pixels(list(one.visuals), use_token_compression=True)
    ids = one.input_ids.masked_fill(one.input_ids == PLACEHOLDER, PORT_VIDEO)
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[ids == PORT_VIDEO] = inputs["video_compression_mask"]
    ids = ids[keep][None]
    expected = port.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=END,
        **inputs,
    )[0, ids.shape[1] :]
    assert generate(model, [one], END, max_new_tokens=8) == [[token for token in expected.tolist() if token != END]]


def test_batched_equals_one_by_one(model: VideoLMM) -> None:
    prompts = [prompt(video(2, 28, 28, 1), seed=1), prompt(seed=2), prompt(image(14, 42, 3), seed=3)]
    together = generate(model, prompts, END, max_new_tokens=6)
    assert together == [generate(model, [one], END, max_new_tokens=6)[0] for one in prompts]


def test_an_answer_ends_at_its_end_token(model: VideoLMM) -> None:
    """With the first token of the free answer declared the end, nothing is left of the answer."""
    one = prompt(seed=2)
    first = generate(model, [one], end_id=-1, max_new_tokens=3)[0]
    assert len(first) == 3
    assert generate(model, [one], end_id=first[0], max_new_tokens=3) == [[]]
    assert generate(model, [one], end_id=first[2], max_new_tokens=3)[0] == first[: first.index(first[2])]


def test_generation_leaves_training_mode_as_it_was(model: VideoLMM) -> None:
    model.train()
    generate(model, [prompt(seed=2)], END, max_new_tokens=1)
    assert model.training
    model.eval()
    assert model(pack(sample(seed=1))).logits.requires_grad
