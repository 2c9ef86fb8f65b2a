"""Probe of the video libraries: torchcodec on top of FFmpeg's libraries, and why they do not load.

    require_video (a tenth of a second, without torch) ─ in doubt ─> load_torchcodec ─ fails ─> one line with the fix

`python -m lightning_apollo.machine.video_libraries` also encodes and decodes; its code is 2 where that fails.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from lightning_apollo.errors import UserError
from lightning_apollo.machine import ffmpeg
from lightning_apollo.machine.packages import install_command, requirements

_LINKED = ("torch", "torchvision", "torchcodec")  # compiled against each other


class VideoLibrariesError(UserError):
    """A machine that cannot decode, or cannot encode, video: the reason, and the commands that mend it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.reason}: {self.fix}"


class FFmpegMissing(VideoLibrariesError):
    """FFmpeg's libraries are missing, in whole or in part, or have a version that torchcodec does not take."""


def require_video() -> None:
    """Raise VideoLibrariesError where video cannot be decoded. Imports torch only where there is a doubt."""
    if sys.platform != "linux" or not ffmpeg.looks_whole() or not _are_versions_as_declared():
        load_torchcodec()


def load_torchcodec() -> None:
    """Import torchcodec; raise VideoLibrariesError where it, or FFmpeg below it, do not load.

    Without FFmpeg torchcodec imports all the same, and fails when it is to open a file.
    """
    try:
        importlib.import_module("torch")
    except Exception as error:  # whatever a package with compiled parts raises while it loads
        raise VideoLibrariesError(f"torch does not load ({first_line(error)})", _reinstall()) from error
    try:
        importlib.import_module("torchcodec.decoders")
        if importlib.import_module("torchcodec").ffmpeg_major_version is None:
            raise ImportError("it finds no FFmpeg")
    except Exception as error:
        version = ffmpeg.loadable_version()
        if version is None:
            raise FFmpegMissing(ffmpeg.why_none_loads(), ffmpeg.fix()) from error
        raise VideoLibrariesError(_mismatch(version, error), _reinstall()) from error


def encode_and_decode() -> str:
    """Encode eight red frames to H.264 and decode them; return what came back. Raises VideoLibrariesError."""
    load_torchcodec()
    import torch
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage] (public, no __all__)
    from torchcodec.encoders import VideoEncoder  # pyright: ignore[reportPrivateImportUsage] (public, no __all__)

    frames = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    frames[:, 0] = 255
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "red.mp4"
        with encoding():
            VideoEncoder(frames, frame_rate=8).to_file(clip, codec="libx264", pixel_format="yuv420p")
        try:
            decoded = VideoDecoder(clip)[:]
        except (RuntimeError, ValueError) as error:
            raise VideoLibrariesError(f"FFmpeg does not decode H.264 ({first_line(error)})", _another()) from error
    red, green, blue = decoded.float().mean(dim=(0, 2, 3)).tolist()
    found = f"{len(decoded)} of 8 frames, mean colour {red:.0f} {green:.0f} {blue:.0f}"
    if len(decoded) != 8 or red <= 235 or max(green, blue) >= 20:  # H.264 loses a few grey levels
        raise VideoLibrariesError(f"FFmpeg changes what it decodes ({found})", _another())
    return found


@contextmanager
def encoding() -> Iterator[None]:
    """Turn what torchcodec raises where it cannot encode H.264 into a VideoLibrariesError."""
    try:
        yield
    except RuntimeError as error:
        load_torchcodec()  # where it does not load, that is the reason
        raise VideoLibrariesError(f"FFmpeg does not encode H.264 ({first_line(error)})", _another()) from error


def first_line(error: BaseException) -> str:
    """Type and first line, without the place in torchcodec's C++ code that its messages begin with."""
    lines = re.sub(r"^\w+, \S+\.cpp:\d+, ", "", str(error).strip()).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _mismatch(version: int, error: Exception) -> str:
    """Reason for which torchcodec does not load although FFmpeg does: the words of the loader where it has any."""
    torch_version, torchcodec_version = _version_of("torch"), _version_of("torchcodec")
    if torchcodec_version is None:
        return f"torchcodec is missing ({first_line(error)})"
    spec = find_spec("torchcodec")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    libraries = [library for folder in folders for library in Path(folder).glob(f"*_core{version}.so")]
    reason = next(filter(None, (ffmpeg.load_error(str(library)) for library in libraries)), first_line(error))
    return f"torch {torch_version} and torchcodec {torchcodec_version} do not go together ({reason})"


def _are_versions_as_declared() -> bool:
    """True if the installed versions of what is linked are among those that this package declares."""
    try:
        return all(need.specifier.contains(metadata.version(need.name), prereleases=True) for need in _linked())
    except metadata.PackageNotFoundError:
        return False


def _reinstall() -> str:
    try:
        return install_command(*_linked())
    except metadata.PackageNotFoundError:
        return "pip install -e . in the checkout"


def _linked() -> list[Requirement]:
    return [need for need in requirements() if need.name in _LINKED]


def _another() -> str:
    return f"install another FFmpeg: {ffmpeg.fix()}"


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    try:
        encode_and_decode()
    except VideoLibrariesError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
