"""FFmpeg's libraries: the table of their numbers, and each way to have none that torchcodec takes."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lightning_apollo.machine import ffmpeg

ABSENT = "cannot open shared object file: No such file or directory"


def of_version(version: int) -> set[str]:
    return {ffmpeg.file_name(name, number) for name, number in ffmpeg.LIBRARIES[version].items()}


def with_files(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    monkeypatch.setattr(ffmpeg, "load_error", lambda file: None if file in files else f"{file}: {ABSENT}")


def test_the_table_is_what_torchcodec_is_linked_with() -> None:
    spec = find_spec("torchcodec")
    assert spec is not None
    assert spec.origin is not None
    found = {}
    for path in Path(spec.origin).parent.glob("libtorchcodec_core*.so"):
        names = re.findall(rb"lib(?:av|sw)[a-z]+\.so\.\d+", path.read_bytes())
        found[int(path.stem.removeprefix("libtorchcodec_core"))] = {name.decode() for name in names}
    assert found == {version: of_version(version) for version in ffmpeg.LIBRARIES}


def test_the_newest_whole_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with_files(monkeypatch, *of_version(5), *of_version(7), *(of_version(8) - {"libavdevice.so.62"}))
    assert ffmpeg.loadable_version() == 7


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (set(), "FFmpeg's libraries are missing"),
        ({"libavutil.so.55"}, "FFmpeg has a version that torchcodec does not take (libavutil.so.55; it takes 4 to 9)"),
        ({"libavutil.so.99"}, "FFmpeg has a version that torchcodec does not take (libavutil.so.99; it takes 4 to 9)"),
        (
            of_version(5) - {"libavdevice.so.59"},
            f"FFmpeg 5 is there in part only (libavdevice.so.59: {ABSENT})",
        ),
    ],
)
def test_the_ways_to_have_none(monkeypatch: pytest.MonkeyPatch, files: set[str], reason: str) -> None:
    with_files(monkeypatch, *files)
    assert ffmpeg.loadable_version() is None
    assert ffmpeg.why_none_loads() == reason


def test_the_file_runs_alone() -> None:
    """Before anything is installed: no package of ours or of others can be imported."""
    done = subprocess.run([sys.executable, "-I", "-S", ffmpeg.__file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_glance_sees_that_a_library_is_not_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    version = ffmpeg.loadable_version()
    assert version is not None  # `make setup` has seen to it
    assert ffmpeg.looks_whole()
    monkeypatch.setattr(ffmpeg, "LIBRARIES", {version: {**ffmpeg.LIBRARIES[version], "avmissing": 1}})
    assert not ffmpeg.looks_whole()
