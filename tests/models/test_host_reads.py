"""The forward reads nothing back from the device but the one marked place: meta tensors have no values, so that any read raises.

The attention front door is replaced by its CUDA behaviour, which takes cu_seqlens as they are.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_apollo.models import llm, vision_encoder
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from tests.models.clips import CLIP_MODEL, FRAMES, clip_item, clip_pixels
from tests.models.samples import MODEL, VOCABULARY, image, pack, sample, video


def varlen_stand_in(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, **_) -> Tensor:
    assert isinstance(max_seqlen, int)
    assert cu_seqlens.is_meta
    return q


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> VideoLMM:
    monkeypatch.setattr(vision_encoder, "packed_attention", varlen_stand_in)
    monkeypatch.setattr(llm, "packed_attention", varlen_stand_in)
    with torch.device("meta"):
        return build_model(MODEL, ReducerConfig())


BATCH = pack(sample(video(3, 28, 56, 1), seed=1), sample(seed=2), sample(image(14, 42, 3), seed=3)).to("meta")


def test_the_forward_without_reduction_reads_nothing(model: VideoLMM) -> None:
    output = model(BATCH)
    assert output.logits.is_meta
    assert output.logits.shape == (BATCH.num_labels, VOCABULARY)


def test_the_forward_over_clips_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "packed_attention", varlen_stand_in)
    with torch.device("meta"):
        model = build_model(CLIP_MODEL, ReducerConfig())
    clips, image = clip_item(clip_pixels(2 * FRAMES, 9, 14, 1)), clip_item(clip_pixels(1, 9, 14, 2))
    batch = pack(sample(clips, seed=1), sample(seed=2), sample(image, seed=3))
    output = model(batch.to("meta"))
    assert output.logits.is_meta
    assert output.logits.shape == (batch.num_labels, VOCABULARY)


def test_the_only_read_of_the_forward_is_the_reducers(model: VideoLMM, monkeypatch: pytest.MonkeyPatch) -> None:
    model.reducer = ReducerConfig(kind="diff_fp")
    reads: list[int] = []

    def tolist(tensor: Tensor) -> list[int]:
        if not tensor.is_meta:
            return real_tolist(tensor)
        reads.append(tensor.numel())
        return BATCH.visual.run_tokens  # what a device would answer where everything changed

    real_tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    assert model(BATCH).logits.is_meta
    assert reads == [len(BATCH.visual.frame_lengths)]


def test_a_read_is_noticed(model: VideoLMM) -> None:
    """The method itself: a batch whose labels must be counted on the device fails."""
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        replace(BATCH, num_labels=int((BATCH.labels != -100).sum()))
