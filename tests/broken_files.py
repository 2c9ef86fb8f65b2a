"""Broken media files of every kind, made from whole ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image

from tests.media_files import cut, cut_head, ffmpeg, h264, numbered_frames, write_clip, zero_middle


def write_broken_files(folder: Path) -> Path:
    """Fill the folder with broken files, from clips of 40 frames, 10 a second, and pictures."""
    head_last = write_clip(folder / "whole.mp4", 40, 10, *h264(keyframe_interval=10))
    head_first = write_clip(folder / "head_first.mp4", 40, 10, *h264(keyframe_interval=10), "-movflags", "+faststart")
    (folder / "zero_bytes.mp4").touch()
    (folder / "text.mp4").write_text("no video at all\n")
    (folder / "folder.mp4").mkdir()
    cut_head(head_first, folder / "truncated_head.mp4", 0.3)
    cut(head_first, folder / "truncated_tail.mp4", 0.6)
    cut(head_last, folder / "truncated_before_its_index.mp4", 0.6)
    cut(write_clip(folder / "whole.mkv", 40, 10, *h264(keyframe_interval=10)), folder / "truncated_tail.mkv", 0.6)
    zero_middle(head_first, folder / "corrupt_middle.mp4", 0.5, 0.6)
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "audio_only.mp4")
    write_clip(folder / "one_frame.mp4", 1, 10, *h264())
    (folder / "film.png").write_bytes(head_first.read_bytes())
    picture = Image.fromarray(numbered_frames(1)[0].permute(1, 2, 0).contiguous().numpy())
    for suffix in ("png", "jpg"):
        picture.resize((320, 240)).save(folder / f"whole.{suffix}")
        cut(folder / f"whole.{suffix}", folder / f"truncated.{suffix}", 0.7)
    Image.new("I;16", (20, 20)).save(folder / "deep.png")
    picture.save(folder / "animated.webp", save_all=True, append_images=[picture.rotate(180)])
    (folder / "bomb.png").write_bytes(png_header(12_000, 12_000))
    (folder / "larger_bomb.png").write_bytes(png_header(100_000, 100_000))
    return folder


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims these sides."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
