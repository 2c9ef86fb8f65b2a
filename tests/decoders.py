"""Readers with the faults of decoders, for decoding processes that import them by name."""

import ctypes
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from lightning_apollo.data.media.config import SupervisionConfig
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.data.media.supervisor import SupervisedReader
from lightning_apollo.machine.video_libraries import FFmpegMissing
from lightning_apollo.structures import Frames, MediaInfo, Modality

FAULTS = {f"{fault}.png": fault for fault in ("hang", "crash", "abort", "leave", "eat", "wait", "stumble")}
SIZE = (24, 32)  # height and width of what `decoded` gives

_hoard: list[bytearray] = []


@dataclass(frozen=True)
class Faulty(DirectReader):
    """Read as DirectReader, but do to the files named in `faults` what is said there; keep a log where given one."""

    faults: Mapping[str, str] = field(default_factory=dict)  # name of a file -> name of a fault
    log: Path | None = None  # a JSON object a line: of the process, before and after each decode

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        self._write_log()
        fault = self.faults.get(Path(info.path).name)
        if fault is not None:
            globals()[f"_{fault}"]()
        frames = super().decode(info, timestamps, size, background)
        self._write_log()
        return frames

    def _write_log(self) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps({"process": os.getpid(), "server": os.getppid(), **memory_bytes()}) + "\n")


@dataclass(frozen=True)
class WithoutTorchcodec(DirectReader):
    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        raise FFmpegMissing("FFmpeg's libraries are missing", "install ffmpeg")


class NotToBeLoaded(DirectReader):
    """Can be pickled, but not loaded again."""

    def __reduce__(self) -> tuple[object, ...]:
        return _fail, ()


def decoded(reader: MediaReader, path: Path, num_frames: int = 1) -> Frames:
    """Frames spread over the whole file, at SIZE."""
    info = reader.probe(str(path), None)
    moments = info.begin_seconds + torch.arange(num_frames, dtype=torch.float64) * info.duration_seconds / num_frames
    return reader.decode(info, moments, SIZE)


def read_in_copies(path: Path, log: Path) -> None:
    """One read in this process, then in a fork, here again, by a pickled copy, and after the child was killed."""
    reader = SupervisedReader(Faulty(log=log), SupervisionConfig())
    decoded(reader, path)
    if os.fork() == 0:
        decoded(reader, path)
        sys.exit(0)  # the way out that runs what was registered for it
    assert os.wait()[1] == 0
    decoded(reader, path)
    decoded(pickle.loads(pickle.dumps(reader)), path)
    os.kill(read_log(log)[0]["process"], signal.SIGKILL)
    time.sleep(0.5)
    decoded(reader, path)


def read_and_hang(path: Path, hanging_path: Path, log: Path, deadline_seconds: float) -> None:
    """Read with one child, which then waits, and hang with another."""
    faulty, limits = Faulty(faults=FAULTS, log=log), SupervisionConfig(deadline_seconds)
    first, second = SupervisedReader(faulty, limits), SupervisedReader(faulty, limits)
    decoded(first, path)
    decoded(second, hanging_path)


def read_log(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def memory_bytes() -> dict[str, int]:
    """Memory that this process holds, and at most held."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    found = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
    return {"resident": found["VmRSS:"], "peak": found["VmHWM:"]}


def _hang() -> None:
    ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock, deaf to Python's signal handlers


def _crash() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    os.abort()


def _leave() -> None:
    os._exit(3)


def _eat() -> None:
    for _ in range(128):  # 2 GiB and no more, should nobody stop it
        _hoard.append(bytearray(b"x" * 2**24))


def _leak() -> None:
    _hoard.append(bytearray(b"x" * 30 * 2**20))


def _wait() -> None:
    time.sleep(2)


def _stumble() -> None:
    raise ZeroDivisionError("no\nframes")


def _fail() -> NoReturn:
    raise LookupError("this reader cannot be loaded")
