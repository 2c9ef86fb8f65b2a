"""Folders of pictures as videos, against the pictures."""

from pathlib import Path

import torch
from PIL import Image

from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.evaluation.readers.frames import frames_as_video


def test_each_picture_plays_for_its_time(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(6):
        Image.new("RGB", (33, 24), (40 * number, 0, 0)).save(tmp_path / "clip" / f"{number:05d}.png")
    path = tmp_path / frames_as_video(tmp_path, "clip", frames_per_second=3)
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == (6, 24, 32)  # even sizes: what H.264 takes
    frames = decode(info, torch.arange(6, dtype=torch.float64) / 3 + 0.01, (24, 32))
    red = frames.pixels[:, 0].float().mean(dim=(1, 2))
    torch.testing.assert_close(red, torch.arange(6) * 40.0, atol=4.0, rtol=0)  # 4:2:0 and rounding
    written = path.stat().st_mtime_ns
    frames_as_video(tmp_path, "clip", frames_per_second=3)
    assert path.stat().st_mtime_ns == written


def test_a_folder_that_is_not_there_is_a_video_that_is_not_there(tmp_path: Path) -> None:
    assert not (tmp_path / frames_as_video(tmp_path, "nowhere", frames_per_second=3)).exists()
