"""Frame order in H.264 sequence parameters, against the reordering that FFmpeg's encoder was told to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_apollo.data.media.h264 import is_shown_as_stored
from tests.media_files import write_clip


def configuration(path: Path) -> bytes:
    """The content of the only avcC box of a file."""
    content = path.read_bytes()
    at = content.index(b"avcC")
    return content[at + 4 : at - 4 + int.from_bytes(content[at - 4 : at], "big")]


@pytest.mark.parametrize(
    ("b_frames", "options", "is_ordered"),
    [
        (0, (), True),
        (0, ("-profile:v", "baseline"), True),
        (0, ("-profile:v", "main"), True),
        (0, ("-profile:v", "high444", "-pix_fmt", "yuv444p"), True),
        (3, (), False),
        (1, ("-profile:v", "main"), False),
    ],
)
def test_b_frames_show_in_the_parameters(
    tmp_path: Path, b_frames: int, options: tuple[str, ...], is_ordered: bool
) -> None:
    codec = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-bf", b_frames, *options)
    found = configuration(write_clip(tmp_path / "clip.mp4", 8, 10, *codec))
    assert is_shown_as_stored(found) is is_ordered


@pytest.mark.parametrize("content", [b"", b"\1\x64\0\x1f\xff\xe1", b"\1\x64\0\x1f\xff\xe1\0\x10\x67\x64", bytes(40)])
def test_parameters_that_are_cut_short_promise_nothing(content: bytes) -> None:
    assert not is_shown_as_stored(content)
