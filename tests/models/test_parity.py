"""Encoder, connector and whole model against transformers' `video_llama_3` with the same random weights."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from apollo_kernels import Layout, pack_patches, similarity_keep
from lightning_apollo.models.checkpoint.load import from_port_names, to_port_names
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.structures import Sample, VisualBatch, cumulative_lengths
from tests.models.samples import PATCH, image, our_model, pack, port_logits, port_model, port_pixels, sample, video
from tests.tolerances import MODEL, SUMMATION

FLOAT = torch.float32


def mixed_samples(static: bool = False) -> list[Sample]:
    return [
        sample(image(28, 42, 1), image(14, 70, 2), seed=1),  # two images of different size
        sample(video(3, 56, 28, 3, static=static), seed=2),
        sample(seed=3),  # text only
        sample(image(42, 42, 4), video(4, 28, 56, 5, static=static), seed=4),  # both in one sample
        sample(video(2, 28, 28, 6, static=static), video(1, 56, 56, 7), seed=5),  # two videos, one of a single frame
    ]


def layout_of(batch: VisualBatch) -> Layout:
    return Layout.of(batch.sizes, batch.merge_sizes, batch.patch_size)


@pytest.fixture(scope="module")
def port():
    return port_model()


@pytest.mark.parametrize("merge_size", [1, 2])
def test_patches_equal_the_ports(merge_size: int) -> None:
    items = [video(3, 56, 28, 0, merge_size), video(1, 28, 84, 1, merge_size)]
    batch = VisualBatch.from_items(items, PATCH)
    patches, positions, _ = pack_patches(batch.pixels, layout_of(batch))
    expected = port_pixels(items)
    assert batch.grid_thw.tolist() == expected["video_grid_thw"].tolist()
    assert_close(patches, expected["pixel_values_videos"], atol=SUMMATION[FLOAT], rtol=0)
    assert positions.shape == (patches.shape[0], 2)


def test_encoder_equals_the_ports(port) -> None:
    model = our_model(port)
    items = [video(3, 56, 28, 0), video(1, 28, 84, 1)]
    batch = VisualBatch.from_items(items, PATCH)
    patches, positions, _ = pack_patches(batch.pixels, layout_of(batch))
    cu_seqlens = cumulative_lengths(batch.frame_lengths)
    features = model.vision_encoder(patches, positions, cu_seqlens, max(batch.frame_lengths))
    merged = features.view(-1, 4, features.shape[1]).mean(dim=1)
    expected = port.model.vision_model(patches, batch.grid_thw, batch.merge_sizes).last_hidden_state
    assert_close(merged, expected, atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


def test_logits_of_a_mixed_batch_equal_the_ports_one_by_one(port) -> None:
    samples = mixed_samples()
    output = our_model(port)(pack(*samples))
    expected = [port_logits(port, one) for one in samples]
    assert_close(output.targets, torch.cat([targets for _, targets in expected]))
    assert_close(output.logits, torch.cat([logits for logits, _ in expected]), atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


def test_logits_with_reduction_equal_the_ports(port) -> None:
    samples = mixed_samples(static=True)
    output = our_model(port, ReducerConfig(kind="diff_fp"))(pack(*samples))
    assert output.num_kept_tokens < output.num_visual_tokens
    expected = torch.cat([port_logits(port, one, reduce=True)[0] for one in samples])
    assert_close(output.logits, expected, atol=MODEL[FLOAT], rtol=MODEL[FLOAT])


def test_gradients_equal_the_ports(port) -> None:
    port.zero_grad()
    model, samples = our_model(port, ReducerConfig(kind="diff_fp")), mixed_samples(static=True)
    output = model(pack(*samples))
    F.cross_entropy(output.logits, output.targets).backward()
    logits, targets = zip(*(port_logits(port, one, reduce=True) for one in samples), strict=True)
    F.cross_entropy(torch.cat(logits), torch.cat(targets)).backward()
    expected = from_port_names({name: p.grad for name, p in port.named_parameters()})
    ours = {name: p.grad for name, p in model.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        assert_close(
            gradient, expected[name], atol=MODEL[FLOAT], rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_keep_mask_equals_the_ports_on_clips_that_change_a_little(port) -> None:
    """Changes from one grey level in one byte (under the threshold of 118 levels a block) to whole blocks."""
    clip = video(6, 56, 84, 0).frames.pixels.clone()
    clip[1:] = clip[0]
    clip[1, 0, 0, 0] += 1  # one byte by one grey level: dropped
    flat = clip.view(6, -1)
    flat[2, :117] = flat[1, :117] ^ 1  # spread over several blocks
    clip[3, :, 28:, 28:56] ^= 1
    clip[4, :, :28, 56:] ^= 255
    item = video(6, 56, 84, 0)
    item = type(item)(type(item.frames)(clip, item.frames.pts_seconds), "video", 2)
    batch = VisualBatch.from_items([item, video(1, 28, 28, 1), video(3, 28, 28, 2)], PATCH)
    expected = port_pixels([item, video(1, 28, 28, 1), video(3, 28, 28, 2)], use_token_compression=True)
    keep, counts = similarity_keep(batch.pixels, layout_of(batch), threshold_grey_levels=0.05)
    assert 0 < int((~keep).sum()) < keep.numel()
    assert keep.tolist() == expected["video_compression_mask"].tolist()
    assert int(counts.sum()) == int(keep.sum())


def test_names_survive_the_round_trip(port) -> None:
    state = port.state_dict()
    assert to_port_names(from_port_names(state)).keys() == state.keys()
    with pytest.raises(ValueError, match=r"\bvisual\b"):
        from_port_names({"visual.weight": torch.zeros(1)})
