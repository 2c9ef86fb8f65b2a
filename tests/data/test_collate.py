"""Packing against values written by hand, and the counts that the batch keeps on the host."""

from __future__ import annotations

import pytest
import torch

from lightning_apollo.data.collate import collate
from lightning_apollo.structures import IGNORE_INDEX, Frames, Sample, VisualItem


def _item(num_frames: int, height: int, width: int, value: int, merge_size: int = 1) -> VisualItem:
    pixels = torch.full((num_frames, 3, height, width), value, dtype=torch.uint8)
    frames = Frames(pixels, torch.arange(num_frames, dtype=torch.float64))
    return VisualItem(frames, "video" if num_frames > 1 else "image", merge_size)


def _sample(name: str, ids: list[int], labels: list[int], visuals: tuple[VisualItem, ...] = ()) -> Sample:
    input_ids = torch.tensor(ids)
    return Sample(name, "source", input_ids, torch.tensor(labels), input_ids == 3, visuals, patch_size=2)


def test_two_samples_pack_into_one_sequence() -> None:
    first = _sample("a:1", [9, 3, 3, 8, 7], [-100, -100, -100, 8, 7], (_item(2, 2, 2, 1),))
    second = _sample("b:4", [6, 3, 5], [6, -100, 5], (_item(1, 4, 4, 2, merge_size=2),))
    batch = collate([first, second], patch_size=2)
    assert batch.input_ids.tolist() == [9, 3, 3, 8, 7, 6, 3, 5]
    assert batch.labels.tolist() == [-100, -100, -100, 8, 7, -100, -100, 5]  # the 6 would be predicted from the 7
    assert second.labels.tolist() == [6, -100, 5], "the sample itself stays as it was"
    assert batch.visual_positions.tolist() == [1, 2, 6]
    assert batch.lengths == (5, 3)
    assert batch.num_labels == 3 == first.num_labels + second.num_labels
    assert batch.run_samples == (0, 0, 1)
    assert batch.sample_ids == ("a:1", "b:4")
    assert batch.visual.sizes.tolist() == [[2, 2, 2], [1, 4, 4]]
    assert batch.visual.merge_sizes.tolist() == [1, 2]
    assert batch.visual.pixels.tolist() == [1] * 24 + [2] * 48


def test_text_alone_packs_with_an_empty_visual_batch() -> None:
    batch = collate([_sample("a:1", [9, 8], [-100, 8])], patch_size=2)
    assert batch.visual.pixels.numel() == 0
    assert batch.visual_positions.tolist() == []
    assert batch.run_samples == ()


def test_media_of_one_sample_keep_their_order_and_owner() -> None:
    text = _sample("a:1", [9, 8], [-100, 8])
    both = _sample("a:2", [3, 3, 3, 8], [-100, -100, -100, 8], (_item(1, 2, 2, 5), _item(2, 2, 2, 6)))
    batch = collate([text, both, both], patch_size=2)
    assert batch.run_samples == (1, 1, 1, 2, 2, 2)
    assert batch.visual_positions.tolist() == [2, 3, 4, 6, 7, 8]
    assert batch.visual.pixels.unique_consecutive().tolist() == [5, 6, 5, 6]


def test_a_prompt_without_labels_packs() -> None:
    batch = collate([_sample("a:1", [9, 8], [IGNORE_INDEX, IGNORE_INDEX])], patch_size=2)
    assert batch.num_labels == 0


def test_nothing_and_another_patch_size_are_errors() -> None:
    with pytest.raises(ValueError, match="batch"):
        collate([], patch_size=2)
    with pytest.raises(ValueError, match=r"a:1: .*\b2\b.*\b14 pixels"):
        collate([_sample("a:1", [9, 8], [-100, 8])], patch_size=14)
