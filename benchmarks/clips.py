"""The clips of bench_pipeline, rendered by FFmpeg on first use and kept in benchmarks/.cache."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness import CACHE

FPS = 30


@dataclass(frozen=True)
class Clip:
    """An H.264 mp4 of FFmpeg's moving test picture with camera noise on it, at a bit rate as streaming services have."""

    name: str
    width: int
    height: int  # pixels
    seconds: int  # of the rendered part
    keyframe_interval: int  # frames from one keyframe to the next
    kilobits: int  # a second
    repeats: int = 1  # the rendered part, one after the other, without encoding it again

    def path(self) -> Path:
        """The file, rendered if it is not there."""
        path = CACHE / f"{self.name}.mp4"
        if path.exists():
            return path
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f"{self.name}.part.mp4"
        _ffmpeg(
            *("-f", "lavfi", "-i", f"testsrc2=size={self.width}x{self.height}:rate={FPS}:duration={self.seconds}"),
            *("-vf", "noise=alls=4:allf=t,format=yuv420p", "-c:v", "libx264", "-preset", "veryfast"),
            *("-g", str(self.keyframe_interval), "-sc_threshold", "0", "-b:v", f"{self.kilobits}k", str(part)),
        )
        if self.repeats > 1:
            whole = CACHE / f"{self.name}.whole.mp4"
            _ffmpeg("-stream_loop", str(self.repeats - 1), "-i", str(part), "-c", "copy", str(whole))
            whole.replace(part)
        part.replace(path)
        return path


SHORT_GOP = Clip("720p_short_gop", 1280, 720, 60, keyframe_interval=12, kilobits=2500)
LONG_GOP = Clip("720p_long_gop", 1280, 720, 60, keyframe_interval=250, kilobits=2500)
# 47 divides the distance of neither ours' nor the processor's 180 moments: no side meets keyframes more often by luck
HOUR = Clip("720p_hour", 1280, 720, 60, keyframe_interval=47, kilobits=300, repeats=60)
TINY = Clip("tiny", 160, 96, 4, keyframe_interval=12, kilobits=100)  # warms up, and is all that --quick reads


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True)
