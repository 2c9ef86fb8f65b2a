"""Answers against transformers' own generation, a loop without a cache and single prompts."""

from dataclasses import replace

import pytest
import torch

from lightning_apollo.inference.generate import DrawConfig, generate, stream_tokens
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.llm import predict
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


@torch.inference_mode()
def without_cache(model: VideoLMM, one: Sample, end_id: int, max_new_tokens: int) -> list[int]:
    """The whole sequence again for every token."""
    sequence = model.splice(pack(one)).inputs_embeds
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        hidden = model.decode(sequence, [sequence.shape[0]])
        token = predict(model.llm, hidden[-1:]).argmax(dim=-1)
        if int(token) == end_id:
            break
        answer.append(int(token))
        sequence = torch.cat([sequence, model.llm.get_input_embeddings()(token)])
    return answer


def test_the_cache_changes_no_token(model: VideoLMM) -> None:
    """Prompts of other lengths, with dropped tokens, several media and none, whose answers end at different steps."""
    visuals = [(video(3, 28, 56, 1, static=True),), (), (image(14, 42, 3), video(2, 28, 28, 4)), (image(28, 28, 5),)]
    prompts = [prompt(*items, seed=seed) for seed, items in enumerate(visuals)]
    end_id = without_cache(model, prompts[1], -1, 12)[3]
    expected = [without_cache(model, one, end_id, 12) for one in prompts]
    assert len(set(map(len, expected))) > 1
    assert generate(model, prompts, end_id, 12) == expected


def test_draws_repeat_with_their_seed_and_narrow_to_the_likeliest(model: VideoLMM) -> None:
    prompts = [prompt(seed=2), prompt(image(14, 42, 3), seed=3)]

    def drawn(temperature: float, top_p: float, seed: int) -> list[dict[int, int]]:
        return list(stream_tokens(model, prompts, END, 6, DrawConfig(temperature, top_p, seed)))

    assert drawn(3.0, 1.0, seed=0) == drawn(3.0, 1.0, seed=0) != drawn(3.0, 1.0, seed=1)
    greedy = list(stream_tokens(model, prompts, END, 6))
    assert drawn(1.0, 1e-6, seed=0) == greedy
    assert drawn(1e-4, 1.0, seed=0) == greedy


def test_draws_follow_the_probabilities(model: VideoLMM) -> None:
    """400 equal prompts of one word; top_p leaves the fewest tokens that together reach it."""
    one = prompt(seed=2)
    one = replace(one, input_ids=one.input_ids[:1], labels=one.labels[:1], is_placeholder=one.is_placeholder[:1])
    with torch.no_grad():
        hidden = model.decode(model.splice(pack(one)).inputs_embeds, [1])
        probabilities = (predict(model.llm, hidden)[0] / 2.0).softmax(dim=-1)
    ordered, ids = probabilities.sort(descending=True)
    allowed = ids[: int((ordered.cumsum(dim=0) < 0.5).sum()) + 1].tolist()
    (first,) = stream_tokens(model, [one] * 400, -1, 1, DrawConfig(temperature=2.0, top_p=0.5))
    assert set(first.values()) <= set(allowed)
    share = sum(token == allowed[0] for token in first.values()) / 400
    expected = float(ordered[0] / ordered[: len(allowed)].sum())
    assert len(allowed) > 1
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)


@pytest.mark.parametrize(
    ("temperature", "top_p", "named"), [(-1.0, 1.0, "temp"), (1.0, 0.0, "top_p"), (1.0, 1.5, "top_p")]
)
def test_what_cannot_be_drawn_by_is_refused(temperature: float, top_p: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DrawConfig(temperature, top_p)


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
    steps = stream_tokens(model, [prompt(seed=2)], -1, 5)
    next(steps)
    steps.close()  # who asked went away
    assert model.training
    model.eval()
    assert model(pack(sample(seed=1))).logits.requires_grad
