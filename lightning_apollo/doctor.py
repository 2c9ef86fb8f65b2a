"""What a run needs and what this machine has. Where torch or torchcodec cannot be imported, that is a finding, too."""

import ctypes
import importlib
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

DISTRIBUTION = "lightning-apollo"
FFMPEG_VERSIONS = {56: "4", 57: "5", 58: "6", 59: "7", 60: "8", 61: "9"}  # libavutil's number -> FFmpeg's
FFMPEG_FIX = {
    "linux": "sudo apt-get install ffmpeg (Debian, Ubuntu), or: conda install -c conda-forge ffmpeg",
    "darwin": "brew install ffmpeg, or: conda install -c conda-forge ffmpeg",
}
MIN_FREE_BYTES = 2 * 1024**3  # the demo's clips, environment and checkpoints stay well below


@dataclass(frozen=True)
class Finding:
    """One line of the report. Without a `fix` it is for information only."""

    name: str
    detail: str
    fix: str = ""  # what to do; empty where nothing is missing


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def is_ready(self) -> bool:
        return not any(finding.fix for finding in self.findings)

    def table(self) -> Table:
        table = Table(title="lightning-apollo doctor", title_justify="left")
        table.add_column("")
        table.add_column("what", no_wrap=True)
        table.add_column("found", overflow="fold")
        for finding in self.findings:
            mark = Text("missing", "red") if finding.fix else Text("ok", "green")
            detail = Text(finding.detail)
            if finding.fix:
                detail.append(f"\n→ {finding.fix}", "yellow")
            table.add_row(mark, finding.name, detail)
        return table


def diagnose() -> Report:
    """Returns what was found. Renders and decodes a clip in a temporary folder; leaves nothing behind."""
    return Report((_python(), *_packages(), _ffmpeg(), *_imports(), _cuda(), _triton(), _decode(), *_machine()))


def _python() -> Finding:
    fix = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    return Finding("python", f"{platform.python_version()}, {sys.executable}", fix)


def _packages() -> list[Finding]:
    """One finding per dependency that the installed package declares."""
    try:
        requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return [Finding(DISTRIBUTION, "not installed", "pip install -e . in the checkout")]
    return [_package(need) for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]


def _package(need: Requirement) -> Finding:
    fix = f"pip install '{need.name}{need.specifier}'"
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Finding(need.name, "not installed", fix)
    if need.specifier.contains(version, prereleases=True):
        return Finding(need.name, version)
    return Finding(need.name, f"{version}, but {need.specifier} is needed", fix)


def _imports() -> list[Finding]:
    """Packages with compiled parts may be installed and still not load."""
    findings = []
    for name in ("torch", "torchvision", "torchcodec", "lightning", "transformers"):
        _, problem = _try_import(name)
        if problem:
            findings.append(
                Finding(f"import {name}", problem, f"reinstall {name}; torchcodec also needs FFmpeg's libraries")
            )
    return findings


def _try_import(name: str) -> tuple[ModuleType | None, str]:
    """The module and an empty string, or None and the first line of what went wrong."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # whatever a foreign package raises while it loads is the finding
        return None, _one_line(error)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _ffmpeg() -> Finding:
    names = {"darwin": "libavutil.{}.dylib", "win32": "avutil-{}.dll"}
    pattern = names.get(sys.platform, "libavutil.so.{}")
    folders = ("", f"{sys.prefix}/lib/")  # where the system looks, then where conda installs
    for number, version in sorted(FFMPEG_VERSIONS.items(), reverse=True):
        for folder in folders:
            try:
                library = ctypes.CDLL(folder + pattern.format(number))
            except OSError:
                continue
            library.av_version_info.restype = ctypes.c_char_p
            return Finding("FFmpeg libraries", f"FFmpeg {version} ({library.av_version_info().decode()})")
    fix = FFMPEG_FIX.get(sys.platform, "conda install -c conda-forge ffmpeg")
    return Finding("FFmpeg libraries", "none of FFmpeg 4 to 9", fix)


def _cuda() -> Finding:
    torch, problem = _try_import("torch")
    if torch is None:
        return Finding("CUDA", f"unknown: {problem}")
    if not torch.cuda.is_available():
        return Finding("CUDA", f"no GPU: runs on the CPU (torch built for {torch.version.cuda or 'CPU only'})")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("CUDA", f"{torch.version.cuda}, {len(names)} × {', '.join(sorted(set(names)))}")


def _triton() -> Finding:
    triton, problem = _try_import("triton")
    if triton is None:
        return Finding("Triton", f"not usable ({problem}): kernels run as plain torch")
    mode = "interpreter (TRITON_INTERPRET=1)" if os.environ.get("TRITON_INTERPRET") == "1" else "compiler"
    return Finding("Triton", f"{triton.__version__}, {mode}")


def _decode() -> Finding:
    """Encodes eight red frames to H.264 and decodes them."""
    torch, problem = _try_import("torch")
    decoders, codec_problem = _try_import("torchcodec.decoders")
    encoders, _ = _try_import("torchcodec.encoders")
    if torch is None or decoders is None or encoders is None:
        return Finding(
            "decode of a rendered clip", problem or codec_problem, "make torchcodec load: see the lines above"
        )
    frames = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    frames[:, 0] = 255
    try:
        with tempfile.TemporaryDirectory() as folder:
            clip = str(Path(folder) / "red.mp4")
            encoders.VideoEncoder(frames, frame_rate=8).to_file(clip)
            decoded = decoders.VideoDecoder(clip)[:]
    except (RuntimeError, ValueError, OSError) as error:
        return Finding("decode of a rendered clip", _one_line(error), FFMPEG_FIX["linux"])
    red, green, blue = decoded.float().mean(dim=(0, 2, 3)).tolist()
    is_red = len(decoded) == 8 and red > 235 and max(green, blue) < 20  # H.264 loses a few grey levels
    detail = f"{len(decoded)} of 8 frames, mean colour {red:.0f} {green:.0f} {blue:.0f}"
    return Finding(
        "decode of a rendered clip",
        detail,
        "" if is_red else "install another FFmpeg: this one changes what it decodes",
    )


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("disk", f"{free / 1024**3:.0f} GiB free here", "free 2 GiB or more" if free < MIN_FREE_BYTES else ""),
        Finding("CPU", f"{cores} cores, {platform.machine()}"),
    ]
