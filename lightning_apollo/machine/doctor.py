"""Doctor: requirements of a run against this machine. Where torch or torchcodec cannot be imported, that is a finding, too."""

import ctypes
import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from lightning_apollo.machine import ffmpeg
from lightning_apollo.machine.packages import DISTRIBUTION, install_command, requirements
from lightning_apollo.machine.video_libraries import VideoLibrariesError, encode_and_decode, first_line

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
    """Return what was found. Renders and decodes a clip in a temporary folder; leaves nothing behind."""
    return Report((_python(), *_packages(), _ffmpeg(), *_imports(), _cuda(), _triton(), _decode(), *_machine()))


def _python() -> Finding:
    fix = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    return Finding("python", f"{platform.python_version()}, {sys.executable}", fix)


def _packages() -> list[Finding]:
    """One finding per dependency that the installed package declares."""
    try:
        return [_package(need) for need in requirements()]
    except metadata.PackageNotFoundError:
        return [Finding(DISTRIBUTION, "not installed", "pip install -e . in the checkout")]


def _package(need: Requirement) -> Finding:
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Finding(need.name, "not installed", install_command(need))
    if need.specifier.contains(version, prereleases=True):
        return Finding(need.name, version)
    return Finding(need.name, f"{version}, but {need.specifier} is needed", install_command(need))


def _imports() -> list[Finding]:
    """Packages with compiled parts may be installed and still not load."""
    findings = []
    for name in ("torch", "torchvision", "lightning", "transformers"):  # torchcodec: see _decode
        _, problem = _try_import(name)
        if problem:
            findings.append(Finding(f"import {name}", problem, f"reinstall {name}"))
    return findings


def _try_import(name: str) -> tuple[ModuleType | None, str]:
    """The module and an empty string, or None and the first line of what went wrong."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # whatever a foreign package raises while it loads is the finding
        return None, first_line(error)


def _ffmpeg() -> Finding:
    version = ffmpeg.loadable_version()
    if version is None:
        return Finding("FFmpeg libraries", ffmpeg.why_none_loads(), ffmpeg.fix())
    library = ctypes.CDLL(ffmpeg.file_name("avutil", ffmpeg.LIBRARIES[version]["avutil"]))
    library.av_version_info.restype = ctypes.c_char_p
    return Finding("FFmpeg libraries", f"FFmpeg {version} ({library.av_version_info().decode()})")


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
    try:
        return Finding("decode of a rendered clip", encode_and_decode())
    except VideoLibrariesError as error:
        return Finding("decode of a rendered clip", error.reason, error.fix)


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("disk", f"{free / 1024**3:.0f} GiB free here", "free 2 GiB or more" if free < MIN_FREE_BYTES else ""),
        Finding("CPU", f"{cores} cores, {platform.machine()}"),
    ]
