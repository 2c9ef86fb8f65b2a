"""Uploads: shown files and refused ones with their messages. FFmpeg itself says what it would open."""

import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.inference.chat.uploads import is_upload, probe_upload
from lightning_apollo.structures import MediaError
from tests.media_files import ffmpeg, h264, write_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder.resolve()


def refusal(path: Path | str, folder: Path) -> str:
    with pytest.raises(MediaError) as caught:
        probe_upload(str(path), folder, DirectReader())
    assert str(folder.parent) not in str(caught.value)  # the folders of this machine are nobody's business
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.ts", "a.m2ts", "a.mpg", "a.flv", "a.gif"]
)
def test_containers_are_known_by_their_content(folder: Path, name: str) -> None:
    codec = {".webm": ("-c:v", "libvpx"), ".mpg": ("-r", 25), ".gif": ()}.get(Path(name).suffix, h264())
    clip = write_clip(folder / name, 12, 10, *codec)
    (folder / "no_name_of_a_video").write_bytes(clip.read_bytes())
    info = probe_upload(str(folder / "no_name_of_a_video"), folder, DirectReader())
    assert (info.modality, info.width, info.height) == ("video", 160, 48)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_pictures_are_known_by_their_content(folder: Path, name: str) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=size=20x10", "-frames:v", 1, folder / name)
    (folder / "picture.mp4").write_bytes((folder / name).read_bytes())
    info = probe_upload(str(folder / "picture.mp4"), folder, DirectReader())
    assert (info.modality, info.width, info.height) == ("image", 20, 10)


def test_a_playlist_of_other_files_is_refused_though_ffmpeg_opens_it(folder: Path) -> None:
    write_clip(folder / "secret.mp4", 5, 10, *h264())
    playlist = folder / "innocent.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    command = ("ffmpeg", "-v", "error", "-i", playlist, "-f", "null", "-")
    assert subprocess.run(command, capture_output=True).returncode == 0  # so it would have been shown
    assert "neither a video" in refusal(playlist, folder)
    playlist.write_text(f"#EXTM3U\n#EXTINF:1.0,\n{folder}/secret.mp4\n#EXT-X-ENDLIST\n")
    assert "neither a video" in refusal(playlist, folder)


def test_other_files_are_refused_whatever_they_are_called(folder: Path) -> None:
    archive = folder / "clip.mp4"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.txt", "x")
    assert refusal(archive, folder).startswith("clip.mp4: neither a video")
    (folder / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    assert "neither a video" in refusal(folder / "page.png", folder)
    (folder / "empty.mp4").touch()
    assert "neither a video" in refusal(folder / "empty.mp4", folder)
    (folder / "begins.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 64)
    assert "FFmpeg" in refusal(folder / "begins.mp4", folder)


def test_a_picture_of_gigapixels_is_refused_before_it_is_decoded(folder: Path) -> None:
    """A PNG of 1 kB that says it is 60,000 pixels wide and high: 10 GB of RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert "134217728 pixels, the limit" in refusal(folder / "bomb.png", folder)


def test_videos_of_absurd_size_or_length_are_refused(folder: Path) -> None:
    source = "color=size={}:rate={}:duration={}"
    ffmpeg("-f", "lavfi", "-i", source.format("8200x4200", 25, 0.04), "-c:v", "mjpeg", folder / "big.avi")
    assert "8200×4200 pixels, above the limit" in refusal(folder / "big.avi", folder)
    ffmpeg("-f", "lavfi", "-i", source.format("16x16", "1/50000", 100_000), *h264(), folder / "long.mp4")
    assert "28 hours long, above the limit" in refusal(folder / "long.mp4", folder)


def test_only_what_lies_below_the_folder_was_uploaded(folder: Path, tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.mp4", 5, 10, *h264())
    inside = write_clip(folder / "inside.mp4", 5, 10, *h264())
    (folder / "link.mp4").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "fine.mp4").symlink_to(inside)
    for path in (secret, folder / "../secret.mp4", folder / "link.mp4", folder / "linked/secret.mp4", "/etc/passwd"):
        assert refusal(path, folder).endswith("no file that was uploaded here")
    for path in (folder, folder / "missing.mp4", f"{inside}\0", "s3://bucket/a.mp4", "", f"{folder}/a.tar::b@0+10"):
        assert not is_upload(str(path), folder)
    assert is_upload(str(inside), folder)
    assert is_upload(str(folder / "fine.mp4"), folder)
    assert not is_upload(f"{folder}_beside/inside.mp4", folder)
