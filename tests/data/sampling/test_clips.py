"""Clip positions against hand-written times and the released rule in plain floats."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_apollo.data.sampling.clips import clip_spans, whole_clips
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import END_MARGIN_SECONDS, sample_timestamps
from lightning_apollo.structures import ClipShape, MediaInfo

exhaustive = settings(derandomize=True, deadline=None, max_examples=200)
TOKENS = 128
APOLLO = SamplingConfig(kind="clips", fps=2.0)  # clips of 4 frames, 2 seconds


def video(duration: float, begin: float = 0.0, fps: float = 30.0) -> MediaInfo:
    num_frames = max(1, round(duration * fps))
    return MediaInfo("clip.mp4", "video", 48, 160, begin, duration, num_frames, fps, "h264")


def moments(info: MediaInfo, config: SamplingConfig, *segment: float | None) -> list[list[float]]:
    """The moments of every clip."""
    timestamps = sample_timestamps(info, config, *segment, tokens_per_clip=TOKENS)
    return timestamps.reshape(-1, config.clip_frames).tolist()


def starts(info: MediaInfo, config: SamplingConfig, *segment: float | None) -> list[float]:
    return [clip[0] for clip in moments(info, config, *segment)]


@pytest.mark.parametrize(
    ("duration", "max_clips", "expected"),
    [
        (5.0, 200, [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5], [3, 3.5, 4, 4.5]]),
        (8.0, 200, [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5], [4, 4.5, 5, 5.5], [6, 6.5, 7, 7.5]]),
        (1.2, 200, [[0, 0.5, 1, 1]]),
        (
            100.0,
            5,
            [[0, 0.5, 1, 1.5], [24.5, 25, 25.5, 26], [49, 49.5, 50, 50.5], [73.5, 74, 74.5, 75], [98, 98.5, 99, 99.5]],
        ),
    ],
)
def test_four_videos_written_out(duration: float, max_clips: int, expected: list[list[float]]) -> None:
    config = SamplingConfig(kind="clips", fps=2.0, max_clips=max_clips)
    clips = moments(video(duration), config)
    assert len(clips) == len(expected)
    for clip, times in zip(clips, expected, strict=True):
        assert clip == pytest.approx(times, abs=1e-9)


def test_moments_are_on_the_clock_of_the_container() -> None:
    """A video that begins at 1.467 s, and parts of it; a part has no margin at its end."""
    info = video(5.0, begin=1.467)
    assert starts(info, APOLLO) == pytest.approx([1.467, 3.467, 4.467], abs=1e-9)
    assert starts(info, APOLLO, 2.0, 6.0) == pytest.approx([2.0, 4.0], abs=1e-9)
    assert starts(info, APOLLO, None, 4.467) == pytest.approx([1.467, 2.467], abs=1e-9)
    assert moments(info, APOLLO, 3.0, 4.0) == [[3.0, 3.5, 3.5, 3.5]]


def test_a_rounding_error_is_no_clip_of_its_own() -> None:
    """From 2.3 to 8.3 s are three clips, though the difference is a little more than 6 in floats."""
    assert 8.3 - 2.3 > 6.0
    assert starts(video(10.0), APOLLO, 2.3, 8.3) == pytest.approx([2.3, 4.3, 6.3], abs=1e-9)


@pytest.mark.parametrize("placement", ["paper", "released"])
def test_a_still_picture_shown_as_a_video_is_one_clip_of_it(placement: str) -> None:
    still = MediaInfo("a.png", "video", 48, 160, 0.0, 0.0, 1, None, "png")
    config = SamplingConfig(kind="clips", fps=2.0, placement=placement)
    assert moments(still, config) == [[0.0] * 4]


any_video = given(
    duration=st.floats(1e-3, 3e3),
    begin=st.floats(-5, 1e4),
    fps=st.floats(0.1, 30),
    clip_frames=st.integers(1, 16),
    max_clips=st.integers(1, 300),
    placement=st.sampled_from(["paper", "released"]),
)


@exhaustive
@any_video
def test_every_clip_plays_at_its_rate_inside_the_video(
    duration: float, begin: float, fps: float, clip_frames: int, max_clips: int, placement: str
) -> None:
    config = SamplingConfig(kind="clips", fps=fps, clip_frames=clip_frames, max_clips=max_clips, placement=placement)
    timestamps = sample_timestamps(video(duration, begin), config, tokens_per_clip=TOKENS)
    assert timestamps.dtype == torch.float64
    clips = timestamps.reshape(-1, clip_frames)  # a whole number of them
    assert 1 <= len(clips) <= max_clips
    assert timestamps.min() >= begin - 1e-9
    assert timestamps.max() < begin + duration
    assert (clips[:, 0].diff() > 0).all()
    if duration - END_MARGIN_SECONDS >= clip_frames / fps:
        rate = torch.full((len(clips), clip_frames - 1), 1 / fps, dtype=torch.float64)
        torch.testing.assert_close(clips.diff(dim=1), rate, atol=1e-9, rtol=0)
    else:
        assert len(clips) == 1
        assert (timestamps.diff() >= 0).all()


@exhaustive
@any_video
def test_clips_of_the_paper_cover_the_video(
    duration: float, begin: float, fps: float, clip_frames: int, max_clips: int, placement: str
) -> None:
    """All of it where they are enough; else they reach from its first moment to its last."""
    config = SamplingConfig(kind="clips", fps=fps, clip_frames=clip_frames, max_clips=max_clips)
    length, slack = clip_frames / fps, END_MARGIN_SECONDS  # how far a video may miss a whole number of clips
    begins = torch.tensor(starts(video(duration, begin), config), dtype=torch.float64) - begin
    assert begins[0] == pytest.approx(0, abs=1e-8)
    if duration < length:
        return
    assert len(begins) in {min(max_clips, max(1, math.ceil((duration - rest) / length))) for rest in (0, 2 * slack)}
    if len(begins) > 1:
        assert float(begins[-1]) + length == pytest.approx(duration, abs=slack + 1e-8)
    if math.ceil(duration / length) <= max_clips:
        assert (begins.diff() <= length + slack).all()
        assert float(begins[-1]) + length >= duration - slack - 1e-8


def test_a_video_that_is_short_of_whole_clips_by_a_hair_keeps_them_apart() -> None:
    """At 1.99999 s the frame that ends at 2 s still plays: the second clip would show it a second time."""
    for duration in (4.0, 4.0 - 5e-5, 4.0 + 5e-5):
        assert moments(video(duration), APOLLO) == [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5]]
    assert starts(video(4.0), replace(APOLLO, placement="released")) == [0, 2]


def released(duration: float, length: float, context: int, tokens: int) -> list[float]:
    """The starts as Apollo's released `mm_utils.py` has them, with seconds in the place of its frame numbers."""
    ratio = min(1.0, context * 0.65 / (duration * tokens / length))
    num_clips = math.ceil(duration / length * ratio)
    share = duration / num_clips
    if share > length:
        return [number * share + (share - length) / 2 for number in range(num_clips)]
    return [number * (duration - length) / max(1, num_clips - 1) for number in range(num_clips)]


@exhaustive
@given(
    duration=st.floats(2.5, 3e3),
    fps=st.floats(0.5, 8),
    clip_frames=st.integers(2, 16),
    context=st.sampled_from([512, 4096, 16384]),
    tokens=st.sampled_from([32, 128]),
)
def test_the_released_placement_is_that_of_the_released_code(
    duration: float, fps: float, clip_frames: int, context: int, tokens: int
) -> None:
    config = SamplingConfig(
        kind="clips", fps=fps, clip_frames=clip_frames, placement="released", context_tokens=context, max_clips=10**6
    )
    length = clip_frames / fps
    assume(duration > length and duration % length > 2 * END_MARGIN_SECONDS)  # whole clips: see above
    timestamps = sample_timestamps(video(duration), config, tokens_per_clip=tokens)
    expected = torch.tensor(released(duration, length, context, tokens), dtype=torch.float64)
    torch.testing.assert_close(timestamps[::clip_frames], expected, atol=1e-8, rtol=0)


def test_released_clips_of_a_long_video_fill_two_thirds_of_the_context() -> None:
    """16384 · 0.65 / 128 = 83.2 clips, rounded up; each in the middle of its share of an hour."""
    config = SamplingConfig(kind="clips", fps=2.0, placement="released")
    begins = starts(video(3600.0), config)
    assert len(begins) == 84
    assert begins[0] == pytest.approx(3600 / 84 / 2 - 1, abs=1e-3)
    assert begins[-1] == pytest.approx(3600 - 3600 / 84 / 2 - 1, abs=1e-3)
    assert len(starts(video(100.0), config)) == 50  # all of a short one
    few = SamplingConfig(kind="clips", fps=2.0, placement="released", max_clips=25)
    assert len(starts(video(3600.0), few)) == 25


def test_frames_at_a_rate_are_filled_up_to_whole_clips() -> None:
    config = SamplingConfig(fps=1.0)
    assert moments(video(5.5), config) == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert len(sample_timestamps(video(5.5), config)) == 6  # a model of frames repeats none


@pytest.mark.parametrize("duration", [0.1, 7.3, 900.0])
def test_uniform_frames_make_as_many_clips_of_every_video(duration: float) -> None:
    config = SamplingConfig(kind="uniform", max_frames=8)
    times = sample_timestamps(video(duration, fps=30), config, tokens_per_clip=TOKENS)
    expected = (torch.arange(8, dtype=torch.float64) + 0.5) * duration / 8
    torch.testing.assert_close(times, expected, atol=END_MARGIN_SECONDS, rtol=0)


def test_uniform_frames_that_are_no_whole_clips_are_filled_up() -> None:
    config = SamplingConfig(kind="uniform", max_frames=6)
    assert len(moments(video(60.0), config)) == 2
    assert len(moments(video(0.1, fps=30), config)) == 1  # three frames and one of them again


def test_moments_fill_whole_clips() -> None:
    times = torch.tensor([1.0, 2.0, 4.0])
    assert whole_clips(times, 3).tolist() == [1, 2, 4]
    assert whole_clips(times, 2).tolist() == [1, 2, 4, 4]
    assert whole_clips(times[:1], 4).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("pts", "requested", "clip_frames", "end", "expected"),
    [
        # begins are the container's, lengths those that were asked for
        ([0.0, 0.4, 1.0, 1.4, 1.9, 2.4], [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], 2, 9.0, [[0, 1], [1, 2], [1.9, 2.9]]),
        ([0.0, 0.5, 1.0, 1.5], [0.0, 0.5, 1.0, 1.5], 2, 1.8, [[0, 1], [1, 1.8]]),  # not after the video
        ([0.0, 0.5, 1.0, 1.0], [0.0, 0.5, 1.0, 1.0], 4, 1.2, [[0, 1.2]]),  # a repeated frame counts
        ([0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0], 2, 2.6, [[0, 2], [2, 2.6]]),  # a clip of one moment
        ([3.0, 3.0], [3.0, 3.0], 2, 3.7, [[3, 3.7]]),  # no step at all
        ([0.0, 2.0, 4.0], [0.0, 2.0, 4.0], 1, 5.0, [[0, 2], [2, 4], [4, 5]]),  # clips of one frame
        ([5.2, 5.7], [5.0, 5.5], 2, 5.1, [[5.2, 5.2]]),  # a decoder's clock that runs late
    ],
)
def test_spans(
    pts: list[float], requested: list[float], clip_frames: int, end: float, expected: list[list[float]]
) -> None:
    spans = clip_spans(torch.tensor(pts).double(), torch.tensor(requested).double(), clip_frames, end)
    torch.testing.assert_close(spans, torch.tensor(expected).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"placement": "even"}, r'placement .*"even".*"paper".*"released"'),
        ({"max_clips": 0}, r"max_clips.*\b1\b"),
        ({"clip_frames": 0}, r"clip_frames.*\b1\b"),
        ({"context_tokens": 0}, r"context_tokens.*\b1\b"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(kind="clips", **values)  # pyright: ignore[reportArgumentType]


def test_settings_that_the_model_cannot_take_are_refused() -> None:
    APOLLO.check_clip(ClipShape(4, TOKENS, 384))
    SamplingConfig().check_clip(None)
    with pytest.raises(ValueError, match=r'kind.*"clips".*frames'):
        APOLLO.check_clip(None)
    with pytest.raises(ValueError, match=r"clip_frames.*4.*8 frames"):
        APOLLO.check_clip(ClipShape(8, TOKENS, 384))
    with pytest.raises(ValueError, match=r'kind.*"clips".*tokens'):
        sample_timestamps(video(5.0), APOLLO)
