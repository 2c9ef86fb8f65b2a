"""The reducers inside the whole model: kept tokens and their text."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM
from lightning_apollo.structures import Frames, VisualBatch, VisualItem
from tests.models.samples import PATCH, image, our_model, pack, port_model, sample, video
from tests.tolerances import MODEL

FLOAT = torch.float32


@pytest.fixture(scope="module")
def model() -> VideoLMM:
    return our_model(port_model())


def with_reducer(model: VideoLMM, **reducer: object) -> VideoLMM:
    model.reducer = ReducerConfig(**reducer)  # pyright: ignore[reportArgumentType] (the keys are the reducer's)
    return model


def two_scenes() -> VisualItem:
    """Five frames of 2×3 tokens: three equal ones, then two equal ones of other content."""
    first, second = (video(1, 2 * 28, 3 * 28, seed).frames.pixels for seed in (1, 2))
    pixels = torch.cat([first, first, first, second, second])
    return VisualItem(Frames(pixels, torch.arange(5).double()), "video", 2)


def encode(model: VideoLMM, *items: VisualItem) -> tuple[Tensor, list[int], Tensor | None]:
    tokens, reduction = model.encode(VisualBatch.from_items(items, PATCH))
    return tokens, reduction.run_tokens, reduction.keep_mask


def test_merge_similar_gives_each_scene_once(model: VideoLMM) -> None:
    """Equal frames have equal features, so the mean of a scene is one of its frames; an image beside it stays as it is."""
    picture = image(28, 28, 3)
    tokens, run_tokens, keep_mask = encode(
        with_reducer(model, kind="merge_similar", min_cosine=0.999), picture, two_scenes()
    )
    assert run_tokens == [4, 6, 0, 0, 6, 0]
    assert keep_mask is not None
    assert keep_mask.nonzero().flatten().tolist() == [*range(10), *range(22, 28)]
    whole, _, _ = encode(with_reducer(model, kind="none"), picture, two_scenes())
    assert_close(tokens, whole[keep_mask], atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


def test_merge_similar_gives_the_connector_the_mean_of_a_run(model: VideoLMM) -> None:
    """Every token joins where the cosine may be almost -1: one mean over all frames, taken before the connector."""
    clip = video(3, 28, 56, 4)
    merged, run_tokens, _ = encode(with_reducer(model, kind="merge_similar", min_cosine=-0.9999), clip)
    assert run_tokens == [2, 0, 0]
    features: list[Tensor] = []
    hook = model.connector.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    encode(with_reducer(model, kind="none"), clip)
    hook.remove()
    expected = model.connector(features[0].view(3, 2, -1).mean(dim=0))
    assert_close(merged, expected, atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


@pytest.mark.parametrize("reducer", [{"kind": "merge_similar"}, {"kind": "diff_fp", "token_budget": 8}])
def test_a_reduced_sample_is_the_same_in_a_batch_and_alone(model: VideoLMM, reducer: dict[str, object]) -> None:
    with_reducer(model, **reducer)
    samples = [sample(two_scenes(), seed=1), sample(seed=2), sample(image(14, 42, 3), two_scenes(), seed=3)]
    packed = model(pack(*samples))
    assert packed.num_kept_tokens < packed.num_visual_tokens
    alone = torch.cat([model(pack(one)).logits for one in samples])
    assert_close(packed.logits, alone, atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


def test_a_token_budget_keeps_the_first_frame_and_the_most_changed(model: VideoLMM) -> None:
    """Frames 1, 2 and 4 repeat the one before: what is beyond the first frame comes from the cut, but for a token a frame."""
    _, run_tokens, _ = encode(with_reducer(model, kind="diff_fp", token_budget=12), two_scenes(), image(28, 28, 3))
    assert run_tokens == [6, 1, 1, 3, 1, 4]


def test_gradients_pass_through_merged_tokens(model: VideoLMM) -> None:
    """Two equal frames merged: the loss sees the features once, so encoder gradients equal those of the frame alone."""
    clip = video(1, 28, 56, 5)
    twice = VisualItem(Frames(clip.frames.pixels.repeat(2, 1, 1, 1), torch.arange(2).double()), "video", 2)
    gradients = []
    for item, kind in ((clip, "none"), (twice, "merge_similar")):
        with_reducer(model, kind=kind, min_cosine=0.99).zero_grad()
        output, _, _ = encode(model, item)
        F.mse_loss(output, torch.ones_like(output)).backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.vision_encoder.named_parameters() if p.grad is not None}
        )
    assert_close(gradients[1], gradients[0], atol=MODEL[FLOAT], rtol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "pool"}, r"reducer\.kind .*none, diff_fp, merge_similar.*'pool'"),
        ({"reference": "next"}, r"reducer\.reference .*previous, last_kept"),
        ({"arithmetic": "float8"}, r"reducer\.arithmetic .*exact, bfloat16"),
        ({"threshold_grey_levels": -1.0}, r"threshold_grey_levels .*\b0\b"),
        ({"min_tokens": 0}, r"min_tokens .*\b1\b"),
        ({"token_budget": 9, "reference": "last_kept"}, r"reducer\.token_budget .*reducer\.reference=previous"),
        ({"token_budget": 0}, r"reducer\.token_budget .*\b1\b"),
        ({"min_cosine": 1.5}, r"\b1, .*\b1\.5$"),
    ],
)
def test_what_the_configuration_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReducerConfig(**wrong)  # pyright: ignore[reportArgumentType] (that is the test)
