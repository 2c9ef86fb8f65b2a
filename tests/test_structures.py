"""Dataclasses that cross files: refused values and derived numbers."""

import pickle
from dataclasses import replace

import pytest
import torch

from lightning_apollo.structures import (
    Frames,
    MediaError,
    MediaInfo,
    VisualBatch,
    VisualItem,
    cumulative_lengths,
)
from tests.models.samples import image, pack, sample, video


def test_a_media_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(MediaError("a.mp4", "no such file")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "no such file", "a.mp4: no such file")


def test_frames_and_times_go_together() -> None:
    with pytest.raises(ValueError, match=r"\b3 frames.*\b2 presentation"):
        Frames(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.zeros(2))
    with pytest.raises(ValueError, match="frames are"):
        Frames(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), torch.zeros(3))
    with pytest.raises(ValueError, match="0 frames"):
        MediaInfo("a.mp4", "video", 4, 4, 0.0, 0.0, 0, None, "h264")


def test_an_item_must_be_cut_into_whole_blocks() -> None:
    item = VisualItem(Frames(torch.zeros(2, 3, 28, 42, dtype=torch.uint8), torch.zeros(2)), "video", 2, "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4: 28×42.*28"):
        item.grid(patch_size=14)
    assert replace(item, merge_size=1).grid(14) == (2, 2, 3)
    assert replace(item, merge_size=1).num_visual_tokens(14) == 12


def test_a_sample_counts_its_placeholders() -> None:
    one = sample(video(2, 28, 28, 1), seed=1)
    with pytest.raises(ValueError, match=r"\b1 placeholders.*\b2 visual"):
        replace(one, is_placeholder=one.is_placeholder & (torch.arange(len(one.input_ids)) < 4))
    with pytest.raises(ValueError, match=r"placeholder.*label"):
        replace(one, labels=one.input_ids)


@pytest.mark.parametrize("num_items", [0, 1, 2])
def test_a_batch_is_its_items_one_after_the_other(num_items: int) -> None:
    items = [video(2, 28, 56, 1), image(14, 42, 2)][:num_items]
    batch = VisualBatch.from_items(items, patch_size=14)
    expected = [byte for item in items for byte in item.frames.pixels.flatten().tolist()]
    assert batch.pixels.tolist() == expected
    assert batch.grid_thw.tolist() == [[2, 2, 4], [1, 1, 3]][:num_items]
    assert batch.frame_lengths == [8, 8, 3][: num_items + 1 if num_items else 0]
    assert batch.run_tokens == [2, 2, 3][: num_items + 1 if num_items else 0]


def test_a_packed_batch_compares_its_counts() -> None:
    batch = pack(sample(video(2, 28, 28, 1), seed=1), sample(seed=2))
    assert len(batch) == 2
    with pytest.raises(ValueError, match=r"\b1 placeholders.*\b2 visual"):
        replace(batch, visual_positions=batch.visual_positions[:1])
    with pytest.raises(ValueError, match=r"lengths.*\b3\b"):
        replace(batch, lengths=(1, 2))
    with pytest.raises(ValueError, match=r"\b1 owners.*\b2 frames"):
        replace(batch, run_samples=(0,))


def test_cumulative_lengths_lead_with_zero() -> None:
    assert cumulative_lengths([3, 1, 4]).tolist() == [0, 3, 4, 8]
    assert cumulative_lengths([]).tolist() == [0]
    assert cumulative_lengths([3]).dtype == torch.int32
