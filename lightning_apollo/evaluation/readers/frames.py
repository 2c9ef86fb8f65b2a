"""Folders of pictures as videos."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.evaluation.question import BenchmarkError
from lightning_apollo.evaluation.readers.files import EXTRACTED
from lightning_apollo.files import write_atomically
from lightning_apollo.machine.video_libraries import encoding

_ENDINGS = (".jpg", ".jpeg", ".png")
_QUALITY = 12  # constant rate factor: no difference to the pictures can be seen


def frames_as_video(folder: Path, pictures: str, frames_per_second: float) -> str:
    """The path of a video that shows the pictures of a folder in the order of their names; it is written once.

    Both paths are relative to `folder`. Pictures are of one size. Where there is none, the path of a file that is not
    there: asking about it then reports that it is missing.
    """
    names = sorted(path for path in (folder / pictures).glob("*") if path.suffix.lower() in _ENDINGS)
    path = folder / EXTRACTED / f"{hashlib.blake2b(pictures.encode(), digest_size=16).hexdigest()}.mp4"
    if names and not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _encode(names, path, frames_per_second)
        except OSError as error:
            raise BenchmarkError(f"{path}: {error.strerror}: videos of picture folders are written there") from error
    return path.relative_to(folder).as_posix()


def _encode(names: list[Path], path: Path, frames_per_second: float) -> None:
    from torchcodec.encoders import VideoEncoder  # pyright: ignore[reportPrivateImportUsage] (public, no __all__)

    frames = torch.cat([_pixels(name) for name in names])  # (F, 3, H, W) uint8
    frames = frames[..., : frames.shape[-2] // 2 * 2, : frames.shape[-1] // 2 * 2]  # H.264 takes even sizes
    with encoding():
        encoded = VideoEncoder(frames, frame_rate=frames_per_second).to_tensor(format="mp4", crf=_QUALITY)
    with write_atomically(path) as partial:
        partial.write_bytes(encoded.numpy().data)


def _pixels(path: Path) -> Tensor:
    """The picture as it is, (1, 3, H, W) uint8."""
    info = probe(path, "image")
    return decode(info, torch.zeros(1), (info.height, info.width)).pixels
