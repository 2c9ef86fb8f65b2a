"""Test media: clips with burnt-in frame numbers in plain and odd containers, and broken files.

A frame shows its number as black and white squares that survive H.264: bit i is the i-th square from the left.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import torch
from torch import Tensor

NUM_BITS = 10
SQUARE = 16  # pixels
HEIGHT, WIDTH = 48, NUM_BITS * SQUARE


def numbered_frames(num_frames: int) -> Tensor:
    """(F, 3, HEIGHT, WIDTH) uint8: frame k shows k, above a band of noise."""
    numbers = torch.arange(num_frames)
    bits = (numbers[:, None] >> torch.arange(NUM_BITS)) & 1  # (F, NUM_BITS)
    frames = (bits * 255).repeat_interleave(SQUARE, dim=1)[:, None, None].repeat(1, 3, HEIGHT, 1)
    noise = torch.randint(256, (num_frames, 1, SQUARE, WIDTH), generator=torch.Generator().manual_seed(0))
    frames[:, :, 2 * SQUARE :] = noise  # so that every frame weighs bytes, which broken files can lack
    return frames.to(torch.uint8)


def read_number(picture: Tensor) -> int:
    """The number that one frame, (3, HEIGHT, WIDTH), shows."""
    squares = picture[:, : 2 * SQUARE].float().mean(dim=0).unfold(1, SQUARE, SQUARE)  # (2·SQUARE, NUM_BITS, SQUARE)
    levels = squares[4:-4, :, 4:-4].mean(dim=(0, 2)).tolist()
    return sum(1 << bit for bit, level in enumerate(levels) if level > 127)


def ffmpeg(*arguments: object, stdin: bytes = b"") -> None:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, input=stdin, check=True, capture_output=True)


def write_clip(path: Path, num_frames: int = 40, fps: float = 10, *output_options: object) -> Path:
    """Encode numbered frames with FFmpeg; the container follows the path, options go before it."""
    raw = numbered_frames(num_frames).permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", fps, "-i", "-")
    ffmpeg(*source, *output_options, path, stdin=raw)
    return path


def h264(keyframe_interval: int = 250, b_frames: int = 3) -> tuple[object, ...]:
    """Encoder options: a long group of pictures with B-frames unless told otherwise."""
    return ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", keyframe_interval, "-bf", b_frames)


def variable_rate_seconds(number: int) -> float:
    """Time of frame `number` of `write_variable_rate`: 10 a second for two seconds, then 2.5 a second."""
    return number / 10 if number < 20 else 2 + (number - 20) / 2.5


def write_variable_rate(path: Path, num_frames: int = 40) -> Path:
    times = "setpts='if(lt(N,20),N/10,2+(N-20)/2.5)/TB'"
    timing = ("-fps_mode", "passthrough", "-video_track_timescale", 1000)
    return write_clip(path, num_frames, 10, "-vf", f"settb=1/1000,{times}", *timing, *h264())


def cut(source: Path, target: Path, share: float) -> Path:
    """The first `share` of the bytes."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def cut_head(source: Path, target: Path, share: float) -> Path:
    """Without the first `share` of the bytes."""
    content = source.read_bytes()
    target.write_bytes(content[int(len(content) * share) :])
    return target


def zero_middle(source: Path, target: Path, begin: float, end: float) -> Path:
    """With the bytes from share `begin` to share `end` set to zero."""
    content = bytearray(source.read_bytes())
    first, last = int(len(content) * begin), int(len(content) * end)
    content[first:last] = bytes(last - first)
    target.write_bytes(content)
    return target


def ffmpeg_frames(path: Path, *input_options: object) -> Tensor:
    """(F, 3, H, W) uint8: every frame that FFmpeg's command shows, upright."""
    size = ("-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framecrc", "-")
    command = ["ffmpeg", "-v", "error", *map(str, input_options), "-i", str(path)]
    lines = subprocess.run([*command, *size], check=True, capture_output=True, text=True).stdout.splitlines()
    width, height = next(line for line in lines if line.startswith("#dimensions")).split(": ")[1].split("x")
    raw = ("-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    content = subprocess.run([*command, *raw], check=True, capture_output=True).stdout
    frames = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return frames.view(-1, int(height), int(width), 3).permute(0, 3, 1, 2)


def with_matrix(source: Path, target: Path, matrix: tuple[float, ...]) -> Path:
    """The same MP4 with a b c d of the display matrix of its first track."""
    a, b, c, d = (round(value * 65536) for value in matrix)
    content = bytearray(source.read_bytes())
    begin = content.index(b"tkhd") + 4 + 40
    content[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target
