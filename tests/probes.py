"""Faulty and logging probes, for processes that import them by name."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.probe_pool import Probe
from lightning_apollo.machine.video_libraries import FFmpegMissing
from lightning_apollo.structures import MediaInfo, Modality


def faulty(address: str, modality: Modality) -> MediaInfo:
    """Fault that the file's name asks for, and its facts where it asks for nothing."""
    name = Path(address).stem
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("odd"):
        raise ZeroDivisionError("no\nframes")
    return media.probe(address, modality)


def logged(log: Path, gate: Path | None = None) -> Probe:
    """A probe that writes every path to `log`; with a `gate`, a file called gate.* waits until it exists."""
    return partial(_logged, log, gate)


def names_in(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def without_torchcodec(address: str, modality: Modality) -> MediaInfo:
    raise FFmpegMissing("FFmpeg's libraries are missing", "install ffmpeg")


def _logged(log: Path, gate: Path | None, address: str, modality: Modality) -> MediaInfo:
    path = Path(address)
    with log.open("a") as file:
        file.write(f"{path.name}\n")
    while gate is not None and path.stem == "gate" and not gate.exists():
        time.sleep(0.02)
    return media.probe(address, modality)
