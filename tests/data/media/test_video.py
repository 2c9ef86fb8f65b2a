"""Decoded frames against the numbers burnt into them. The transformers port's resize, Pillow's own reading."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchcodec.decoders import VideoDecoder
from transformers import VideoLlama3ImageProcessor, VideoLlama3VideoProcessor

from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.video import decode, load_image, probe
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.structures import MediaError, MediaInfo
from tests.media_files import (
    HEIGHT,
    WIDTH,
    ffmpeg,
    h264,
    numbered_frames,
    read_number,
    variable_rate_seconds,
    write_clip,
    write_variable_rate,
)

NATIVE = (HEIGHT, WIDTH)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Clips of 40 numbered frames, 10 a second unless their name says otherwise."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {
        "plain": write_clip(folder / "plain.mp4", 40, 10, *h264()),
        "short groups": write_clip(folder / "short.mp4", 40, 10, *h264(keyframe_interval=5)),
        "ntsc": write_clip(folder / "ntsc.mp4", 40, 30000 / 1001, *h264()),
        "shifted": write_clip(folder / "shifted.mkv", 40, 10, *h264(), "-output_ts_offset", 3.5),
        "transport stream": write_clip(folder / "stream.ts", 40, 10, *h264(b_frames=0)),
        "transport stream, B-frames": write_clip(folder / "b_frames.ts", 40, 10, *h264()),
        "transport stream, short groups": write_clip(folder / "groups.ts", 40, 10, *h264(keyframe_interval=5)),
        "animated": write_clip(folder / "animated.gif", 40, 10),
        "variable": write_variable_rate(folder / "variable.mp4"),
    }
    clips["rotated"] = folder / "rotated.mp4"
    ffmpeg("-i", clips["plain"], "-c", "copy", "-metadata:s:v", "rotate=90", clips["rotated"])
    return clips


CONSTANT_RATE = {
    "plain": 10,
    "short groups": 10,
    "ntsc": 30000 / 1001,
    "shifted": 10,
    "transport stream": 10,
    "transport stream, B-frames": 10,
    "transport stream, short groups": 10,
    "animated": 10,
}


@pytest.mark.parametrize("name", CONSTANT_RATE)
@pytest.mark.parametrize("sampling", [SamplingConfig(fps=4), SamplingConfig(kind="uniform", max_frames=7)])
def test_times_are_those_of_the_frames_shown(clips, name, sampling):
    """Number = (pts − begin) · fps within half a frame, and it is the frame that plays at the moment asked for."""
    info = probe(clips[name])
    assert (info.num_frames, info.modality) == (40, "video")
    timestamps = sample_timestamps(info, sampling)
    frames = decode(info, timestamps, NATIVE)
    numbers = torch.tensor([read_number(picture) for picture in frames.pixels]).double()
    rate = CONSTANT_RATE[name]
    assert ((frames.pts_seconds - info.begin_seconds) * rate - numbers).abs().max() < 0.5
    lag = (timestamps - frames.pts_seconds) * rate
    assert lag.min() > -0.05  # the containers round to milliseconds
    assert lag.max() < 1.05


def test_variable_frame_rate(clips):
    """Times come from the container: 20 frames in the first two seconds, 20 in the next eight."""
    info = probe(clips["variable"])
    assert info.duration_seconds == pytest.approx(10.0, abs=0.4)
    timestamps = sample_timestamps(info, SamplingConfig(fps=5))
    frames = decode(info, timestamps, NATIVE)
    numbers = [read_number(picture) for picture in frames.pixels]
    expected = [variable_rate_seconds(number) for number in numbers]
    torch.testing.assert_close(frames.pts_seconds, torch.tensor(expected).double(), atol=2e-3, rtol=0)
    shown = [max(n for n in range(40) if variable_rate_seconds(n) <= t + 1e-3) for t in timestamps.tolist()]
    assert numbers == shown


def test_begin_is_the_containers(clips):
    assert probe(clips["shifted"]).begin_seconds == pytest.approx(3.5, abs=0.2)
    assert probe(clips["transport stream"]).begin_seconds > 1
    assert probe(clips["plain"]).begin_seconds == 0


def test_avi_with_b_frames_runs_late_by_a_constant(tmp_path):
    """AVI stores the order of decoding only: the right frames in the right order, a few frame times late."""
    info = probe(write_clip(tmp_path / "clip.avi", 40, 10, *h264(keyframe_interval=5)))
    frames = decode(info, sample_timestamps(info, SamplingConfig(fps=4)), NATIVE)
    numbers = torch.tensor([read_number(picture) for picture in frames.pixels]).double()
    late = frames.pts_seconds - numbers / 10
    assert (numbers.diff() > 0).sum() >= 13
    assert late.max() - late.min() < 1e-6
    assert 0 <= late[0] <= 0.3


def test_rotation_is_applied(clips, tmp_path):
    """As FFmpeg's own command turns it."""
    info = probe(clips["rotated"])
    assert (info.height, info.width) == (WIDTH, HEIGHT)
    timestamps = sample_timestamps(info, SamplingConfig(fps=10))
    ours = decode(info, timestamps, (WIDTH, HEIGHT)).pixels
    ffmpeg("-i", clips["rotated"], "-f", "rawvideo", "-pix_fmt", "rgb24", tmp_path / "turned.rgb")
    turned = torch.frombuffer(bytearray((tmp_path / "turned.rgb").read_bytes()), dtype=torch.uint8)
    turned = turned.view(40, WIDTH, HEIGHT, 3).permute(0, 3, 1, 2)
    assert (ours.int() - turned.int()).abs().max() <= 2  # rounding of YUV to RGB


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_rotation_is_what_turns_the_stored_frames(clips, tmp_path, degrees):
    ffmpeg("-i", clips["plain"], "-c", "copy", "-metadata:s:v", f"rotate={degrees}", tmp_path / "turned.mp4")
    stored, turned = probe(clips["plain"]), probe(tmp_path / "turned.mp4")
    assert (stored.rotation_degrees, turned.rotation_degrees) == (0, degrees)
    first = [decode(info, torch.tensor([info.begin_seconds]), (info.height, info.width)) for info in (stored, turned)]
    assert torch.equal(torch.rot90(first[0].pixels, degrees // 90, (2, 3)), first[1].pixels)


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, 270), (8, 90)])
def test_the_rotation_of_a_picture_is_that_of_its_exif(tmp_path, orientation, degrees):
    picture = Image.fromarray(torch.arange(12 * 8 * 3, dtype=torch.uint8).view(8, 12, 3).numpy())
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.png", exif=exif)
    info = probe(tmp_path / "turned.png", "image")
    assert info.rotation_degrees == degrees
    stored = torch.arange(12 * 8 * 3, dtype=torch.uint8).view(8, 12, 3).permute(2, 0, 1)
    assert torch.equal(
        torch.rot90(stored, degrees // 90, (1, 2)), load_image(info.path, (info.height, info.width)).pixels[0]
    )


def test_repeated_moments_repeat_the_frame(clips):
    for name in ("plain", "transport stream, B-frames"):
        info = probe(clips[name])
        frames = decode(info, info.begin_seconds + torch.tensor([0.5, 0.5, 0.55]), NATIVE)
        assert [read_number(picture) for picture in frames.pixels] == [5, 5, 5]


def test_moments_outside_or_falling_are_refused(clips):
    for moments in ([-0.1], [4.0], [2.0, 1.0], [float("nan")]):
        with pytest.raises(ValueError, match=r"\[0\.0.*4\.0\)"):
            decode(clips["plain"], torch.tensor(moments), NATIVE)


def test_one_frame_clip(tmp_path):
    path = write_clip(tmp_path / "one.mp4", 1, 10, *h264())
    info = probe(path)
    frames = decode(info, sample_timestamps(info, SamplingConfig()), NATIVE)
    assert (info.num_frames, len(frames), read_number(frames.pixels[0])) == (1, 1, 0)


@pytest.mark.parametrize("name", ["plain", "transport stream, B-frames"])
def test_chunks_and_threads_do_not_change_values(clips, name, monkeypatch):
    info = probe(clips[name])
    timestamps = sample_timestamps(info, SamplingConfig(fps=5))
    at_once = decode(info, timestamps, (28, 84))
    monkeypatch.setattr(media, "_CHUNK_BYTES", 3 * 3 * HEIGHT * WIDTH)
    assert torch.equal(decode(info, timestamps, (28, 84), num_threads=2).pixels, at_once.pixels)


def test_both_ways_to_read_agree(clips):
    """Seeking and reading front to back give the same frames."""
    info = probe(clips["short groups"])
    timestamps = sample_timestamps(info, SamplingConfig(fps=3))
    seeking = media._seek_and_read(info, timestamps, NATIVE, num_threads=1)
    in_order = media._read_in_order(info, timestamps, NATIVE, num_threads=1)
    assert seeking is not None
    assert torch.equal(seeking.pixels, in_order.pixels)
    assert torch.equal(seeking.pts_seconds, in_order.pts_seconds)


@pytest.mark.parametrize("pixels_per_frame", [28 * 84, 112 * 336])
def test_resize_equals_the_ports_video_processor(clips, pixels_per_frame):
    """The port resizes the same native frames itself; ours are only cut into patches by it. Bit-equal."""
    native = VideoDecoder(clips["plain"]).get_frames_in_range(0, 8).data
    edges = {"shortest_edge": 28 * 28, "longest_edge": 8 * pixels_per_frame}
    port = VideoLlama3VideoProcessor(use_token_compression=False)
    expected = port(videos=[native], size=edges, return_tensors="pt")
    _, rows, columns = expected["video_grid_thw"][0].tolist()
    ours = decode(clips["plain"], torch.arange(8).double() / 10, (rows * 14, columns * 14)).pixels
    patches = port(videos=[ours], do_resize=False, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(patches, expected["pixel_values_videos"])


def test_resize_equals_the_ports_image_processor(tmp_path):
    pixels = torch.randint(256, (61, 97, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.numpy())
    picture.save(tmp_path / "noise.png")
    port = VideoLlama3ImageProcessor()
    expected = port(images=[picture], return_tensors="pt")
    _, rows, columns = expected["image_grid_thw"][0].tolist()
    ours = load_image(tmp_path / "noise.png", (rows * 14, columns * 14)).pixels
    assert torch.equal(
        port(images=[ours[0]], do_resize=False, return_tensors="pt")["pixel_values"], expected["pixel_values"]
    )


def picture_of(number: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(numbered_frames(number + 1)[number].permute(1, 2, 0).contiguous().numpy()).convert(mode)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".avif", ".tif", ".jp2", ".ppm", ".pgm"])
def test_pictures(tmp_path, suffix):
    picture_of(613, "L" if suffix == ".pgm" else "RGB").save(tmp_path / f"picture{suffix}")
    info = probe(tmp_path / f"picture{suffix}")
    assert (info.modality, info.height, info.width, info.num_frames, info.fps) == ("image", HEIGHT, WIDTH, 1, None)
    frames = load_image(Path(info.path), NATIVE)
    assert read_number(frames.pixels[0]) == 613
    assert frames.pts_seconds.tolist() == [0.0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_picture_modes_become_rgb(tmp_path, mode):
    picture_of(613, mode).save(tmp_path / "picture.png")
    assert read_number(load_image(tmp_path / "picture.png", NATIVE).pixels[0]) == 613


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".avif"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    """Orientation 6: the camera lay on its side, the picture is to be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture_of(613).transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"side{suffix}", exif=exif)
    info = probe(tmp_path / f"side{suffix}")
    assert (info.height, info.width) == NATIVE
    assert read_number(load_image(Path(info.path), NATIVE).pixels[0]) == 613


def test_annotation_decides_between_picture_and_video(clips, tmp_path):
    """An animated GIF as an image is its first frame; a still picture as a video is one frame; a film is no image."""
    info = probe(clips["animated"], "image")
    assert (info.modality, info.num_frames) == ("image", 1)
    assert read_number(decode(info, torch.zeros(1), NATIVE).pixels[0]) == 0
    picture_of(613).save(tmp_path / "still.png")
    info = probe(tmp_path / "still.png", "video")
    assert (info.modality, info.num_frames) == ("video", 1)
    frames = decode(info, sample_timestamps(info, SamplingConfig()), NATIVE)
    assert [read_number(picture) for picture in frames.pixels] == [613]
    with pytest.raises(MediaError, match="picture"):
        probe(clips["plain"], "image")


def test_content_decides_not_the_extension(clips, tmp_path):
    film, picture = tmp_path / "film.jpg", tmp_path / "picture.mp4"
    film.write_bytes(clips["plain"].read_bytes())
    picture_of(613).save(picture, format="PNG")
    assert (probe(film).modality, probe(film).codec) == ("video", "h264")
    assert (probe(picture).modality, probe(picture).codec) == ("image", "png")


def test_memory_does_not_grow_with_native_frames(tmp_path):
    """60 frames of 720p are 166 MB; brought to the paper's 140×280 they take less than 80 MB over the imports."""
    path = tmp_path / "large.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=60:r=1:s=1280x720", "-preset", "ultrafast", "-pix_fmt", "yuv420p", path)
    completed = subprocess.run([sys.executable, "-c", PEAK_MEMORY, path], capture_output=True, text=True, check=True)
    assert int(completed.stdout) < 80 * 1024


PEAK_MEMORY = """
import sys
from pathlib import Path
from torchcodec.decoders import VideoDecoder
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.sampling.config import SamplingConfig

def kilobytes(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

base = kilobytes("VmRSS")
info = probe(Path(sys.argv[1]))
frames = decode(info, sample_timestamps(info, SamplingConfig(fps=1)), (140, 280))
assert len(frames) == 60
print(kilobytes("VmHWM") - base)
"""


def test_info_refuses_no_frames():
    with pytest.raises(ValueError, match="0 frames"):
        MediaInfo("a.mp4", "video", 48, 160, 0.0, 1.0, 0, 30.0, "h264")
