"""The doctor, on this machine and where something does not load."""

import ctypes
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from lightning_apollo.machine import doctor


def run_with_broken(module: str, error: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(f"raise {error}\n")
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "300", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "lightning_apollo", "doctor"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_machine_that_runs_the_tests_is_ready() -> None:
    report = doctor.diagnose()
    found = {finding.name: finding.detail for finding in report.findings}
    assert report.is_ready
    assert found["torch"] == metadata.version("torch")
    assert found["decode of a rendered clip"].startswith("8 of 8 frames")
    assert "interpreter" in found["Triton"] or not found["CUDA"].startswith("no GPU")
    assert "missing" not in str(report.table().columns[0]._cells)


@pytest.mark.parametrize(
    ("module", "error", "reason"),
    [
        ("torchcodec", 'RuntimeError("could not load libtorchcodec")', "do not go together"),
        ("torch", 'OSError("libcudart.so.13: cannot open shared object file")', "torch does not load"),
    ],
)
def test_a_package_that_does_not_load_is_a_finding(module: str, error: str, reason: str, tmp_path: Path) -> None:
    done = run_with_broken(module, error, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    message = error.split('"')[1]
    (line,) = (line for line in done.stdout.splitlines() if "decode of a rendered clip" in line)
    assert "missing" in line
    assert line.count(message) == line.count(reason) == 1


def test_missing_ffmpeg_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(sys, "platform", "linux")
    finding = doctor._ffmpeg()
    assert finding.detail == "FFmpeg's libraries are missing"
    assert finding.fix.startswith("sudo apt-get install ffmpeg")


def test_an_old_or_absent_package_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=99", "no-such-package>=1; sys_platform == 'linux'", "rich", "pytest; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    monkeypatch.setattr(sys, "platform", "linux")
    findings = {finding.name: finding for finding in doctor._packages()}
    assert set(findings) == {"torch", "no-such-package", "rich"}
    assert findings["torch"].fix == "pip install 'torch>=99'"
    assert findings["no-such-package"].detail == "not installed"
    assert findings["rich"].fix == ""


def test_little_disk_space_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert not doctor.Report(tuple(doctor._machine())).is_ready
