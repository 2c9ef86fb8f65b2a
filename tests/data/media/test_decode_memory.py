"""Long videos stay under a stated amount of memory in the decoding process, however long they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media.config import SupervisionConfig
from lightning_apollo.data.media.supervisor import SupervisedReader
from tests.decoders import Faulty, decoded, read_log
from tests.media_files import ffmpeg, h264, write_clip

NUM_FRAMES = 180  # what VideoLLaMA 3 takes at most
SIZE = (252, 448)  # pixels; 180 frames of it are 58 MiB
MAX_GROWTH_BYTES = 160 * 2**20  # those frames included


@pytest.fixture
def film(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Ten seconds of moving H.264 at 30 frames a second and 500 kbit/s, repeated to the length asked for."""
    height, seconds = request.param
    part, path = tmp_path / "part.mp4", tmp_path / "film.mp4"
    picture = f"testsrc2=size={height * 16 // 9}x{height}:rate=30:duration=10"
    ffmpeg("-f", "lavfi", "-i", picture, *h264(48), "-preset", "veryfast", "-b:v", "500k", part)
    ffmpeg("-stream_loop", seconds // 10 - 1, "-i", part, "-c", "copy", path)
    yield path
    path.unlink()  # up to a quarter of a gigabyte


@pytest.mark.slow
@pytest.mark.parametrize(
    "film", [(1080, 600), (720, 3600)], ids=["10 minutes of 1080p", "an hour of 720p"], indirect=True
)
def test_long_videos_stay_under_a_stated_memory(film: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    reader = SupervisedReader(Faulty(log=log), SupervisionConfig(deadline_seconds=300.0))
    decoded(reader, write_clip(tmp_path / "short.mp4", 8, 10, *h264()), 8)  # has loaded all code
    before = read_log(log)[-1]["resident"]
    info = reader.probe(str(film), "video")
    moments = torch.arange(NUM_FRAMES, dtype=torch.float64) * info.duration_seconds / NUM_FRAMES
    frames = reader.decode(info, info.begin_seconds + moments, SIZE)
    assert len(frames) == NUM_FRAMES
    assert abs(frames.pts_seconds - moments).max() < 1 / 30 + 1e-3
    after = read_log(log)[-1]
    growth = after["peak"] - before
    assert frames.pixels.nbytes < growth < MAX_GROWTH_BYTES
    assert after["process"] == read_log(log)[0]["process"]
