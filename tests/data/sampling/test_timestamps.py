"""Sampled moments against numpy's grid, hand-written times and bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import for_video, sample_timestamps, single_frame
from lightning_apollo.structures import MediaError, MediaInfo

exhaustive = settings(derandomize=True, deadline=None, max_examples=300)


def video(duration: float, begin: float = 0.0, fps: float = 30.0) -> MediaInfo:
    num_frames = max(1, round(duration * fps))
    return MediaInfo("clip.mp4", "video", 48, 160, begin, duration, num_frames, fps, "h264")


def test_one_frame_a_second_from_the_first_frame_on():
    """5.13 s hold six ticks; exactly 5 s hold five, since nothing plays at the end itself."""
    config = SamplingConfig()
    assert sample_timestamps(video(5.13), config).tolist() == [0, 1, 2, 3, 4, 5]
    assert sample_timestamps(video(5.0), config).tolist() == [0, 1, 2, 3, 4]
    assert sample_timestamps(video(2.0, begin=3.5), config).tolist() == [3.5, 4.5]


def test_long_videos_keep_first_and_last_tick():
    """An hour at 1 fps through 180 frames: numpy's linspace over the grid, rounded down."""
    expected = numpy.linspace(0, 3599, 180).astype(int).tolist()
    assert sample_timestamps(video(3600.0), SamplingConfig()).tolist() == expected
    assert sample_timestamps(video(3600.0), SamplingConfig(max_frames=1)).tolist() == [0]


def test_uniform_takes_the_middle_of_equal_parts():
    config = SamplingConfig(kind="uniform", max_frames=4)
    torch.testing.assert_close(
        sample_timestamps(video(8.0, begin=1.0), config), torch.tensor([2.0, 4.0, 6.0, 8.0]).double(), atol=1e-4, rtol=0
    )
    assert len(sample_timestamps(video(0.1, fps=30), config)) == 3  # no more moments than frames


def test_segments_are_cut_on_the_clock_of_the_container():
    config = SamplingConfig(fps=2)
    assert sample_timestamps(video(10.0), config, 2.0, 4.0).tolist() == pytest.approx([2.0, 2.5, 3.0, 3.5])
    assert sample_timestamps(video(10.0), config, 9.25, 99.0).tolist() == pytest.approx([9.25, 9.75])
    assert sample_timestamps(video(10.0), config, None, 1.0).tolist() == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize(("begin", "end"), [(10.0, 12.0), (4.0, 4.0), (5.0, 3.0), (-3.0, 0.0)])
def test_segments_outside_are_the_items_fault(begin, end):
    with pytest.raises(MediaError, match=r"0\.00.*10\.00"):
        sample_timestamps(video(10.0), SamplingConfig(), begin, end)


def test_images_and_one_frame_clips_have_one_moment():
    image = MediaInfo("a.png", "image", 48, 160, 0.0, 0.0, 1, None, "png")
    for config in (SamplingConfig(), SamplingConfig(kind="uniform")):
        assert sample_timestamps(image, config).tolist() == [0.0]
        assert len(sample_timestamps(video(1 / 30), config)) == 1


@exhaustive
@given(
    duration=st.floats(1e-3, 5e3),
    begin=st.floats(-5, 1e4),
    kind=st.sampled_from(["fps", "uniform"]),
    fps=st.floats(0.05, 60),
    max_frames=st.integers(1, 200),
)
def test_moments_rise_inside_the_video(duration, begin, kind, fps, max_frames):
    info = video(duration, begin)
    timestamps = sample_timestamps(info, SamplingConfig(kind=kind, fps=fps, max_frames=max_frames))
    assert timestamps.dtype == torch.float64
    assert 1 <= len(timestamps) <= max_frames
    assert (timestamps.diff() > 0).all()
    assert info.begin_seconds <= timestamps[0]
    assert timestamps[-1] < info.begin_seconds + info.duration_seconds


def test_single_frame_is_a_function_of_seed_and_sample():
    timestamps = torch.arange(8).double()
    picks = [single_frame(timestamps, 0, f"row:{row}").item() for row in range(400)]
    assert picks == [single_frame(timestamps, 0, f"row:{row}").item() for row in range(400)]
    assert picks[:6] == [6, 5, 2, 5, 5, 4]  # in every process, on every machine
    assert picks != [single_frame(timestamps, 1, f"row:{row}").item() for row in range(400)]

    assert min(picks.count(moment) for moment in range(8)) > 25  # 50 expected each


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "random"}, r'kind .*"random".*"fps".*"uniform"'),
        ({"fps": 0.0}, r"fps .*\b0\b"),
        ({"fps": float("nan")}, r"fps .*\bnan\b"),
        ({"max_frames": 0}, r"max_frames .*\b0\b"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**values)


def test_an_annotation_changes_rate_and_most_frames_of_one_video() -> None:
    uniform = SamplingConfig(kind="uniform", max_frames=8)
    assert for_video(uniform, None, None) == uniform
    assert for_video(uniform, 2.0, None) == SamplingConfig(kind="fps", fps=2.0, max_frames=8)
    assert for_video(uniform, None, 3) == replace(uniform, max_frames=3, max_clips=1)
    clips = SamplingConfig(kind="clips", clip_frames=4, max_clips=10)
    assert for_video(clips, None, 9).max_clips == 2  # whole clips
    assert for_video(clips, None, 99).max_clips == 10
    assert for_video(clips, 3.0, None) == replace(clips, fps=3.0)
