"""Exact outcome of every kind of broken file, the same one each time."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media.video import decode, load_image, probe
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.machine.video_libraries import VideoLibrariesError
from lightning_apollo.structures import MediaError
from tests.broken_files import write_broken_files
from tests.media_files import HEIGHT, WIDTH

NATIVE = (HEIGHT, WIDTH)
NOT_MEDIA = "not a media file that FFmpeg can open"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return write_broken_files(tmp_path_factory.mktemp("broken"))


VIDEOS = {
    "missing.mp4": "no such file",
    "folder.mp4": "a folder, not a file",
    "zero_bytes.mp4": "empty file",
    "text.mp4": NOT_MEDIA,
    "truncated_head.mp4": NOT_MEDIA,
    "truncated_before_its_index.mp4": NOT_MEDIA,
    "truncated_tail.mp4": r"truncated: 2\.\d0 s of video where the header promises 4\.00 s",  # \d: encoders differ
    "truncated_tail.mkv": [0.0, 1.0, 2.0],  # Matroska's header promises nothing: what is there is the video
    "corrupt_middle.mp4": r"corrupt: no frame can be decoded after 1\.\d0 s",
    "audio_only.mp4": "no video stream",
    "one_frame.mp4": [0.0],
    "film.png": [0.0, 1.0, 2.0, 3.0],
    "animated.webp": NOT_MEDIA,
}
NOT_A_PICTURE = (
    r"not a picture \(PNG, JPEG, WEBP, GIF, BMP, AVIF, TIFF, JPEG2000, PPM\) where the annotation has an image"
)
TOO_LARGE = "a picture of more than 134217728 pixels, the limit: make it smaller"
IMAGES = {
    "missing.png": "no such file",
    "zero_bytes.mp4": "empty file",
    "text.mp4": NOT_A_PICTURE,
    "film.png": NOT_A_PICTURE,
    "truncated.png": r"truncated or corrupt picture: .+",
    "truncated.jpg": r"truncated or corrupt picture: .+",
    "deep.png": [0.0],
    "animated.webp": [0.0],
    "bomb.png": TOO_LARGE,
    "larger_bomb.png": TOO_LARGE,
}


def outcome(path: Path, modality: str) -> str | list[float]:
    """The reason why the file cannot be used, or the times of its frames at 1 fps."""
    try:
        if modality == "image":
            return load_image(path, NATIVE).pts_seconds.tolist()
        info = probe(path, "video")
        return decode(info, sample_timestamps(info, SamplingConfig()), NATIVE).pts_seconds.tolist()
    except MediaError as error:
        return error.reason


def as_expected(found: str | list[float], expected: str | list[float]) -> bool:
    """The same times, or a reason that the expected pattern matches as a whole."""
    if isinstance(expected, list) or isinstance(found, list):
        return found == expected
    return re.fullmatch(expected, found) is not None


@pytest.mark.parametrize(("modality", "outcomes"), [("video", VIDEOS), ("image", IMAGES)])
def test_every_broken_file_has_its_outcome_twice(corpus, modality, outcomes):
    first = {name: outcome(corpus / name, modality) for name in outcomes}
    assert [name for name in outcomes if not as_expected(first[name], outcomes[name])] == []
    assert {name: outcome(corpus / name, modality) for name in outcomes} == first


def test_corruption_costs_only_who_looks_at_it(corpus):
    """Frames of whole groups of pictures before the hole are the frames of the whole file."""
    info, timestamps = probe(corpus / "corrupt_middle.mp4"), torch.tensor([0.0, 0.5, 0.9])
    whole = decode(corpus / "head_first.mp4", timestamps, NATIVE)
    assert torch.equal(decode(info, timestamps, NATIVE).pixels, whole.pixels)


def test_a_file_that_changes_after_the_probe_is_a_media_error(corpus, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes((corpus / "whole.png").read_bytes())
    info = probe(path)
    path.write_text("gone")
    with pytest.raises(MediaError, match=r"picture.*probed"):
        decode(info, torch.zeros(1), NATIVE)


def test_errors_travel_between_processes(corpus):
    with pytest.raises(MediaError) as caught:
        probe(corpus / "zero_bytes.mp4")
    assert caught.value.path == str(corpus / "zero_bytes.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, copy.reason) == (caught.value.path, caught.value.reason)


def test_without_torchcodec_the_error_says_what_to_install(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(VideoLibrariesError, match=r"torchcodec.*pip install 'torch"):
        probe(corpus / "one_frame.mp4")
