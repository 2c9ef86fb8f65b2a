"""Phase "end" against FFmpeg's filter `fps` with round=down, frame by frame: what the released loader is made of."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_apollo.data.media import decode, probe
from lightning_apollo.data.sample import SamplingConfig, sample_timestamps, tick_seconds
from tests.media_files import ffmpeg

SIDE, CELL = 16, 4  # pixels: 16 cells of one bit each
RATES = ("5", "8", "10", "12", "15", "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
NUM_CLIPS = 200
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
    raw = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{SIDE}x{SIDE}", "-r", rate, "-i", "-")
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-threads", "1", "-pix_fmt", "yuv420p")
    ffmpeg(*raw, *codec, path, stdin=_pictures(num_frames).tobytes())
    return path


def _of_ffmpeg(path: Path, fps: float, *cut: object) -> list[int]:
    """The numbers that FFmpeg's filter shows."""
    words = ["ffmpeg", "-v", "error", *map(str, cut), "-i", path, "-vf", f"fps={fps}:round=down"]
    words += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(words, check=True, capture_output=True).stdout
    return [_number(picture) for picture in np.frombuffer(raw, np.uint8).reshape(-1, SIDE, SIDE)]


def _of_ours(path: Path, fps: float, begin: float | None = None, end: float | None = None) -> list[int]:
    info, config = probe(path), SamplingConfig(fps=fps, max_frames=10**6, phase="end")
    moments = sample_timestamps(info, config, begin, end)
    return [_number(picture[0].numpy()) for picture in decode(info, moments, (SIDE, SIDE)).pixels]


def _clip(number: int, container: str, folder: Path, longest: float) -> tuple[Path, float]:
    """A clip of some rate and length, between 0.4 s and the longest, and a rate to sample it at."""
    draw = np.random.default_rng(number)
    rate = RATES[number % len(RATES)]
    over, under = (int(part) for part in f"{rate}/1".split("/")[:2])
    seconds = float(np.exp(draw.uniform(np.log(0.4), np.log(longest))))
    num_frames = max(1, round(seconds * over / under))
    return _write(folder / f"{number}.{container}", num_frames, rate), WANTED[number // len(RATES) % len(WANTED)]


def _check(path: Path, fps: float) -> None:
    expected = _of_ffmpeg(path, fps)
    ours = _of_ours(path, fps)
    assert ours == expected or (expected == [] and len(ours) == 1), (path, fps)
    path.unlink()


def test_frames_are_those_of_ffmpeg(tmp_path: Path) -> None:
    """One clip of every rate."""
    for number in range(len(RATES)):
        _check(*_clip(number, "mp4", tmp_path, 20.0))


@pytest.mark.slow
def test_frames_of_two_hundred_clips_are_those_of_ffmpeg(tmp_path: Path) -> None:
    for number in range(NUM_CLIPS):
        _check(*_clip(number, "mp4", tmp_path, 400.0))


def test_times_in_whole_milliseconds(tmp_path: Path) -> None:
    """Matroska's; its header has the rate of 15 frames a second a little too high."""
    for number in (0, 4, 7, 9):
        _check(*_clip(number, "mkv", tmp_path, 60.0))


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
