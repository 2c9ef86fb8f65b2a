"""Films whose coded frames ask to be turned."""

from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media.orientation import is_turned
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.errors import MediaError
from tests.media_files import ffmpeg, ffmpeg_frames, h264, write_clip

QUARTER = bytes([0x08, 0x00, 0x10])  # 24 bits: no end, no mirror, 2^14 of 2^16, and a bit that says how long it holds
UPRIGHT = bytes([0x00, 0x00, 0x10])


def write_turned(folder: Path, turn: str, *output_options: object) -> Path:
    plain = write_clip(folder / "plain.mp4", 20, 10, *h264())
    message = f"h264_metadata=display_orientation=insert:{turn}"
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", message, *output_options, folder / "turned.mp4")
    return folder / "turned.mp4"


def write_hevc(folder: Path, message: bytes) -> Path:
    """An HEVC clip with an orientation ahead of its first picture."""
    encoder = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error")
    raw = write_clip(folder / "raw.h265", 20, 10, *encoder)
    parts = raw.read_bytes().split(b"\0\0\1")
    first = next(number for number, part in enumerate(parts) if len(part) > 2 and part[0] >> 1 & 63 < 32)
    parts.insert(first, bytes([39 << 1, 1, 47, len(message)]) + message + b"\x80")
    raw.write_bytes(b"\0\0\1".join(parts))
    ffmpeg("-f", "hevc", "-r", 10, "-i", raw, "-c", "copy", "-tag:v", "hvc1", folder / "film.mp4")
    return folder / "film.mp4"


@pytest.mark.parametrize("turn", ["rotate=90", "rotate=180", "rotate=45", "flip=horizontal", "flip=vertical"])
def test_a_film_whose_frames_ask_to_be_turned_is_refused(turn: str, tmp_path: Path) -> None:
    path = write_turned(tmp_path, turn)
    assert not torch.equal(ffmpeg_frames(path)[:1], ffmpeg_frames(tmp_path / "plain.mp4")[:1])
    with pytest.raises(MediaError, match=r"turned\.mp4: .*coded frames.*upright"):
        probe(path, "video")


def test_wherever_the_index_lies(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"coded frames"):
        probe(write_turned(tmp_path, "rotate=90", "-movflags", "+faststart"), "video")


def test_an_orientation_that_turns_nothing_is_none(tmp_path: Path) -> None:
    path = write_turned(tmp_path, "rotate=0")
    info = probe(path, "video")
    shown = decode(info, torch.tensor([0.55]), (info.height, info.width)).pixels[0]
    assert float((shown.float() - ffmpeg_frames(path)[5].float()).abs().mean()) < 1.0


def test_hevc_says_it_the_same_way(tmp_path: Path) -> None:
    assert probe(write_hevc(tmp_path, UPRIGHT), "video").codec == "hevc"
    with pytest.raises(MediaError, match=r"film\.mp4: .*coded frames"):
        probe(write_hevc(tmp_path, QUARTER), "video")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (b"", False),
        (b"\0\0\0\x05\x06\x2f\x03\x08", False),  # cut short
        (b"\0\0\0\x07\x06\x2f\x03\x08\x00\x10\x80", True),
        (b"\0\0\0\x07\x06\x2f\x03\x00\x00\x10\x80", False),  # upright
        (b"\0\0\0\x07\x06\x2f\x03\x88\x00\x10\x80", False),  # the end of an orientation
        (b"\0\0\0\x01\x65\0\0\0\x07\x06\x2f\x03\x08\x00\x10\x80", False),  # behind a picture
        (b"\0\0\0\x0a\x06\x05\x01\xff\x2f\x03\x08\x00\x10\x80", True),  # the second of two messages
        (b"\0\0\0\x07\x06\x2f\x03\x40\x00\x00\x80", True),  # mirrored left to right
    ],
)
def test_messages_by_hand(sample: bytes, expected: bool) -> None:
    assert is_turned(sample, 4, is_hevc=False) == expected
