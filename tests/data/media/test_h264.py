"""Frame order and key frames of H.264, against what FFmpeg's encoder was told to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_apollo.data.media.h264 import is_key_picture, is_shown_as_stored
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


IDR, OTHER, HEADER = b"\x65\x88", b"\x41\x9a", b"\x67\x64"
RECOVERY = b"\x06\x05\x02ab\x06\x01\x84\x80"  # two messages: one of another kind, then a point of recovery


@pytest.mark.parametrize(
    ("units", "is_key"),
    [
        ([IDR], True),
        ([HEADER, IDR], True),
        ([OTHER], False),
        ([OTHER, IDR], False),  # it is of the next sample, or an error
        ([RECOVERY, OTHER], True),
        ([b"\x06\x05\x02ab\x80", OTHER], False),
        ([b"\x06\xff\x06\x01\x06\x80", OTHER], False),  # of kind 261
        ([], False),
    ],
)
def test_a_key_picture_is_told_by_its_first_units(units: list[bytes], is_key: bool) -> None:
    sample = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert is_key_picture(sample) is is_key
