"""Phase "end" against FFmpeg's filter `fps` with round=down, which the released loader uses."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps, tick_seconds
from tests.media_files import ffmpeg

SIDE, CELL = 16, 4  # pixels: 16 cells of one bit each
RATES = ("5", "8", "10", "12", "15", "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
NUM_CLIPS, BATCH = 200, 20
WANTED = (1.0, 2.0, 0.5, 4.0)  # frames a second


def _pictures(num_frames: int) -> np.ndarray:
    """(F, SIDE, SIDE) uint8: frame k shows the bits of k."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(16)) & 1
    cells = (bits * 255).astype(np.uint8).reshape(-1, 4, 4)
    return cells.repeat(CELL, axis=1).repeat(CELL, axis=2)


def _number(picture: np.ndarray) -> int:
    cells = picture.reshape(4, CELL, 4, CELL).mean(axis=(1, 3)).ravel() > 127
    return int((cells << np.arange(16)).sum())


def _write(path: Path, num_frames: int, rate: str) -> Path:
    _write_all([(path, num_frames, rate)])
    return path


def _write_all(clips: Sequence[tuple[Path, int, str]]) -> None:
    """Write clips of a number of frames and a rate, in one process: its start costs as much as a clip."""
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-threads", "1", "-pix_fmt", "yuv420p")
    inputs: list[object] = []
    outputs: list[object] = []
    for number, (path, num_frames, rate) in enumerate(clips):
        raw = path.with_suffix(".raw")
        raw.write_bytes(_pictures(num_frames).tobytes())
        inputs += ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{SIDE}x{SIDE}", "-r", rate, "-i", raw)
        outputs += ("-map", number, *codec, path)
    ffmpeg(*inputs, *outputs)


def _of_ffmpeg(path: Path, fps: float, *cut: object) -> list[int]:
    """The numbers that FFmpeg's filter shows."""
    return _all_of_ffmpeg([(path, fps)], *cut)[0]


def _all_of_ffmpeg(clips: Sequence[tuple[Path, float]], *cut: object) -> list[list[int]]:
    """The numbers that FFmpeg's filter shows of each clip at a rate, in one process."""
    inputs: list[object] = []
    outputs: list[object] = []
    for number, (path, fps) in enumerate(clips):
        inputs += ("-threads", 1, *cut, "-i", path)
        outputs += ("-map", number, "-vf", f"fps={fps}:round=down", "-fps_mode", "passthrough")
        outputs += ("-f", "rawvideo", "-pix_fmt", "gray", path.with_suffix(".shown"))
    ffmpeg(*inputs, *outputs)
    shown = (np.fromfile(path.with_suffix(".shown"), np.uint8).reshape(-1, SIDE, SIDE) for path, _ in clips)
    return [[_number(picture) for picture in pictures] for pictures in shown]


def _of_ours(path: Path, fps: float, begin: float | None = None, end: float | None = None) -> list[int]:
    info, config = probe(path), SamplingConfig(fps=fps, max_frames=10**6, phase="end")
    moments = sample_timestamps(info, config, begin, end)
    return [_number(picture[0].numpy()) for picture in decode(info, moments, (SIDE, SIDE)).pixels]


def _clips(numbers: Iterable[int], container: str, folder: Path, longest: float) -> list[tuple[Path, float]]:
    """Clips of some rate and length, between 0.4 s and the longest, each with a rate to sample it at."""
    clips = []
    for number in numbers:
        rate = RATES[number % len(RATES)]
        over, under = (int(part) for part in f"{rate}/1".split("/")[:2])
        seconds = float(np.exp(np.random.default_rng(number).uniform(np.log(0.4), np.log(longest))))
        clips.append((folder / f"{number}.{container}", max(1, round(seconds * over / under)), rate))
    _write_all(clips)
    return [(path, WANTED[int(path.stem) // len(RATES) % len(WANTED)]) for path, _, _ in clips]


def _check(clips: list[tuple[Path, float]]) -> None:
    for (path, fps), expected in zip(clips, _all_of_ffmpeg(clips), strict=True):
        ours = _of_ours(path, fps)
        assert ours == expected or (expected == [] and len(ours) == 1), (path, fps)


def test_frames_are_those_of_ffmpeg(tmp_path: Path) -> None:
    """One clip of every rate."""
    _check(_clips(range(len(RATES)), "mp4", tmp_path, 20.0))


@pytest.mark.slow
def test_frames_of_two_hundred_clips_are_those_of_ffmpeg(tmp_path: Path) -> None:
    for begin in range(0, NUM_CLIPS, BATCH):
        folder = tmp_path / str(begin)
        folder.mkdir()
        _check(_clips(range(begin, begin + BATCH), "mp4", folder, 400.0))
        shutil.rmtree(folder)


def test_times_in_whole_milliseconds(tmp_path: Path) -> None:
    """Matroska's; its header has the rate of 15 frames a second a little too high."""
    _check(_clips((0, 4, 7, 9), "mkv", tmp_path, 60.0))


def test_a_cut_counts_its_ticks_from_where_it_begins(tmp_path: Path) -> None:
    path = _write(tmp_path / "film.mp4", 100, "10")
    for begin, end in ((1.0, 4.0), (2.5, 7.2), (0.3, 1.0), (0.0, 10.0)):
        expected = _of_ffmpeg(path, 1.0, "-ss", begin, "-t", end - begin)
        assert _of_ours(path, 1.0, begin, end) == (expected or [9])


def test_ticks_are_the_seconds_at_which_they_begin(tmp_path: Path) -> None:
    """By hand: 3.4 s at 25 frames a second, the last frames of three whole seconds under 0, 1 and 2."""
    info, config = probe(_write(tmp_path / "film.mp4", 85, "25")), SamplingConfig(phase="end")
    ticks = tick_seconds(info, config)
    assert ticks is not None
    assert ticks.tolist() == [0.0, 1.0, 2.0]
    shown = decode(info, sample_timestamps(info, config), (SIDE, SIDE))
    assert shown.pts_seconds.tolist() == pytest.approx([0.96, 1.96, 2.96])
    assert tick_seconds(info, SamplingConfig()) is None


def test_a_long_video_is_thinned_as_numpy_thins_the_released_one(tmp_path: Path) -> None:
    """31 ticks and 23 frames: numpy's rounding of evenly spaced numbers is not that of whole ones."""
    info = probe(_write(tmp_path / "film.mp4", 155, "5"))
    config = SamplingConfig(phase="end", max_frames=23)
    ticks = tick_seconds(info, config)
    assert ticks is not None
    torch.testing.assert_close(ticks, torch.from_numpy(np.linspace(0, 30, 23, dtype=int)).double())
