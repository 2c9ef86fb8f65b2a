"""The probe of video libraries: quick success, one line on failure and its use by commands."""

import pickle
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from torchcodec.encoders import VideoEncoder
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.shapes.render import write_clip
from lightning_apollo.data.shapes.scene import clip_scene
from lightning_apollo.machine import ffmpeg, video_libraries
from lightning_apollo.machine.video_libraries import FFmpegMissing, VideoLibrariesError
from tests.machine.commands import VIDEO_COMMANDS

REINSTALL = "pip install 'torch<2.15,>=2.14' 'torchvision<0.30,>=0.29' 'torchcodec<0.18,>=0.17'"


def imports_failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def import_or_fail(wanted: str) -> Any:
        if wanted.split(".")[0] == name:
            raise error
        return import_module(wanted)

    monkeypatch.setattr(video_libraries.importlib, "import_module", import_or_fail)


def versions(monkeypatch: pytest.MonkeyPatch, **others: str) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: others.get(name) or real(name))


def test_all_is_well_without_torch() -> None:
    program = (
        "import sys\nfrom lightning_apollo.machine.video_libraries import require_video\n"
        "require_video()\nassert not {'torch', 'torchcodec'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert video_libraries.encode_and_decode().startswith("8 of 8 frames")


def test_without_ffmpeg_torchcodec_imports_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("torchcodec"), "ffmpeg_major_version", None)
    monkeypatch.setattr(ffmpeg, "load_error", lambda file: f"{file}: No such file")
    with pytest.raises(FFmpegMissing) as caught:
        video_libraries.require_video()
    assert str(caught.value).startswith("FFmpeg's libraries are missing: sudo apt-get install ffmpeg")
    copy = pickle.loads(pickle.dumps(caught.value))  # as it comes from a decoding process
    assert (type(copy), str(copy)) == (FFmpegMissing, str(caught.value))


def test_a_pair_that_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torchcodec="0.9.1")
    video_libraries.require_video()  # they load: other versions are no fault
    imports_failing(monkeypatch, "torchcodec", RuntimeError("undefined symbol: _ZN3c10\nmore"))
    with pytest.raises(VideoLibrariesError) as caught:
        video_libraries.require_video()
    reason = f"torch {metadata.version('torch')} and torchcodec 0.9.1 do not go together"
    assert str(caught.value) == f"{reason} (RuntimeError: undefined symbol: _ZN3c10): {REINSTALL}"


def test_a_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    imports_failing(monkeypatch, "torch", OSError("libcudart.so.13: cannot open shared object file"))
    with pytest.raises(VideoLibrariesError) as caught:
        video_libraries.load_torchcodec()
    reason = "torch does not load (OSError: libcudart.so.13: cannot open shared object file)"
    assert str(caught.value) == f"{reason}: {REINSTALL}"


def test_ffmpeg_without_an_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("initialize_video_stream, /src/Encoder.cpp:427, Video codec libx264 not found.\nmore")

    monkeypatch.setattr(VideoEncoder, "to_file", refuse)
    scene = clip_scene(seed=0, index=0)
    for encode in (video_libraries.encode_and_decode, lambda: write_clip(scene, tmp_path / "clip.mp4")):
        with pytest.raises(VideoLibrariesError, match=r"H\.264 \(.*libx264.*found\.\):") as caught:
            encode()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", VIDEO_COMMANDS.values(), ids=VIDEO_COMMANDS)
def test_each_command_asks_before_other_work(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FFmpegMissing("FFmpeg's libraries are missing", "install it")

    monkeypatch.setattr(ffmpeg, "looks_whole", lambda: False)
    monkeypatch.setattr(video_libraries, "load_torchcodec", refuse)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert done.stderr == "FFmpeg's libraries are missing: install it\n"
