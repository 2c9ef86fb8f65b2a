"""Videos that a decoder alone would misread, against FFmpeg's own command."""

from __future__ import annotations

import http.server
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.structures import MediaError, MediaInfo
from tests.media_files import ffmpeg, ffmpeg_frames, h264, read_number, with_matrix, write_clip
from tests.odd_files import OPEN_GROUPS

PALETTE = ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-pix_fmt", "pal8")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("plain") / "plain.mp4", 30, 10, *h264(keyframe_interval=10))


def frames_of(info: MediaInfo) -> torch.Tensor:
    """Each frame of a constant rate, asked for by a moment in its middle."""
    moments = (
        info.begin_seconds + (torch.arange(info.num_frames).double() + 0.5) * info.duration_seconds / info.num_frames
    )
    return decode(info, moments, (info.height, info.width)).pixels


def check_as_ffmpeg(path: Path, *input_options: object) -> MediaInfo:
    info, expected = probe(path), ffmpeg_frames(path, *input_options)
    assert info.num_frames == len(expected)
    assert (frames_of(info).int() - expected.int()).abs().max() <= 2  # rounding of YUV to RGB
    return info


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", QUARTERS + MIRRORS)
def test_turns_and_mirrors_are_ffmpegs(plain, tmp_path, matrix):
    info = check_as_ffmpeg(with_matrix(plain, tmp_path / "shown.mp4", matrix))
    assert info.is_mirrored == (matrix in MIRRORS)
    assert not info.is_read_in_order


def test_a_turn_that_is_no_quarter_is_refused(plain, tmp_path):
    half = 0.5**0.5
    with pytest.raises(MediaError, match="315°"):
        probe(with_matrix(plain, tmp_path / "tilted.mp4", (half, half, -half, half)))


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_the_containers_pixel_aspect_is_applied(plain, tmp_path, ending):
    """Written beside the coded frames, which say nothing."""
    ffmpeg("-i", plain, "-c", "copy", "-aspect", "5:1", tmp_path / f"wide.{ending}")
    info = probe(tmp_path / f"wide.{ending}")
    assert (info.width, info.height) == (240, 48)


@pytest.mark.parametrize(("ending", "codec"), [("mpg", "mpeg2video"), ("ts", "libx264"), ("avi", "mpeg4")])
def test_the_coded_frames_pixel_aspect_is_applied(tmp_path, ending, codec):
    info = probe(write_clip(tmp_path / f"wide.{ending}", 10, 25, "-vf", "setdar=16/9", "-c:v", codec))
    assert (info.width, info.height) == (85, 48)


def test_the_pixel_aspect_of_a_turned_film_is_that_of_its_stored_pixels(plain, tmp_path):
    ffmpeg("-i", plain, "-c", "copy", "-aspect", "5:1", tmp_path / "wide.mp4")
    info = probe(with_matrix(tmp_path / "wide.mp4", tmp_path / "turned.mp4", (0, 1, -1, 0)))
    assert (info.width, info.height) == (48, 240)


def test_an_absurd_pixel_aspect_counts_as_square(plain, tmp_path):
    ffmpeg("-i", plain, "-c", "copy", "-aspect", "300:1", tmp_path / "absurd.mp4")
    info = probe(tmp_path / "absurd.mp4")
    assert (info.width, info.height) == (160, 48)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("palette.avi", (*PALETTE, "-c:v", "rawvideo")),
        ("palette.mov", (*PALETTE, "-c:v", "png")),
        ("raw.h264", h264(keyframe_interval=10)),
        ("raw.h265", ("-c:v", "libx265", "-x265-params", "log-level=error", "-pix_fmt", "yuv420p")),
    ],
)
def test_what_no_seek_finds_is_read_in_order(tmp_path, name, options):
    info = check_as_ffmpeg(write_clip(tmp_path / name, 30, 25, *options))
    assert info.is_read_in_order
    assert (info.begin_seconds, info.duration_seconds) == pytest.approx((0.0, 1.2))


@pytest.mark.parametrize("options", [("-c:v", "mjpeg", "-f", "mjpeg"), ("-c:v", "png", "-f", "image2pipe")])
def test_a_raw_stream_of_pictures_plays(tmp_path, options):
    info = check_as_ffmpeg(write_clip(tmp_path / "camera.stream", 30, 25, *options))
    assert (info.fps, info.num_frames) == (25.0, 30)
    assert probe(tmp_path / "camera.stream", "image").fps is None  # its first picture, as of a GIF


def test_a_recording_begins_with_its_first_frame_that_can_be_decoded(tmp_path):
    film = write_clip(tmp_path / "film.ts", 60, 10, *OPEN_GROUPS)
    packets = len(film.read_bytes()) // 188
    for name, begin in (
        ("between_packets.ts", packets // 7 * 3 * 188),
        ("in_a_packet.ts", packets // 7 * 3 * 188 + 77),
    ):
        (tmp_path / name).write_bytes(film.read_bytes()[begin:])
        info = check_as_ffmpeg(tmp_path / name)
        assert info.clock_start_seconds < info.begin_seconds
        assert info.num_frames < 60


@pytest.mark.parametrize("offsets", [(0, 0), (50, 0), (0, 50), (0, 1.55)])
def test_two_clocks_in_one_file_are_read_one_after_the_other(tmp_path, offsets):
    parts = [
        write_clip(tmp_path / f"{n}.ts", 20 + n, 10, *h264(keyframe_interval=10), "-output_ts_offset", offset)
        for n, offset in enumerate(offsets)
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    info = check_as_ffmpeg(tmp_path / "joined.ts")
    assert info.num_frames == 41
    assert info.duration_seconds == pytest.approx(4.1)


def test_a_cut_without_times_plays_from_its_first_frame(tmp_path):
    film = write_clip(tmp_path / "film.ts", 60, 10, *OPEN_GROUPS)
    ffmpeg("-i", film, "-ss", 3.3, "-c", "copy", tmp_path / "cut.mpg")
    info = check_as_ffmpeg(tmp_path / "cut.mpg")
    assert 0 <= info.begin_seconds < 10
    assert info.duration_seconds == pytest.approx(info.num_frames / 10)


def test_a_picture_that_stays_to_the_end_of_an_ogg_film_is_no_truncation(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "smptehdbars=s=320x180:r=10:d=2", "-c:v", "ffv1", tmp_path / "bars.mkv")
    ffmpeg("-i", tmp_path / "bars.mkv", "-c:v", "libtheora", tmp_path / "still.ogv")
    info = probe(tmp_path / "still.ogv")
    assert info.duration_seconds == pytest.approx(2.0)
    last = decode(info, torch.tensor([1.95]).double(), (180, 320)).pixels
    assert torch.equal(last[0], ffmpeg_frames(tmp_path / "still.ogv")[-1])


@pytest.mark.parametrize(("ending", "start"), [("ts", 1.4), ("mp4", 0.0)])
def test_a_players_clock_begins_with_the_sound(plain, tmp_path, ending, start):
    sound = ("-f", "lavfi", "-i", "sine=d=5")
    ffmpeg("-itsoffset", 1, "-i", plain, *sound, "-c:v", "copy", "-c:a", "mp2", tmp_path / f"film.{ending}")
    info = probe(tmp_path / f"film.{ending}")
    assert info.clock_start_seconds == pytest.approx(start, abs=0.1)
    assert info.begin_seconds == pytest.approx(start + 1, abs=0.1)


def box(content: bytearray, kind: bytes) -> int:
    """Start of the content of a box."""
    return content.index(kind) + 4


def claims(plain: Path, folder: Path) -> dict[str, str]:
    """Files whose headers claim too much, and the reason of each refusal."""
    source = bytearray(plain.read_bytes())
    samples, length, delta = bytearray(source), bytearray(source), bytearray(source)
    place = box(samples, b"stsz")
    samples[place + 4 : place + 12] = struct.pack(">II", 1, 10**9)  # as many samples of one byte
    place = box(length, b"mdhd")
    length[place + 12 : place + 20] = struct.pack(">II", 1, 2**31 - 1)
    place = box(delta, b"stts")
    delta[place + 12 : place + 16] = struct.pack(">I", 2**31 - 1)
    for name, content in (("samples", samples), ("length", length), ("delta", delta)):
        (folder / f"{name}.mp4").write_bytes(content)
    ffmpeg("-i", plain, "-c", "copy", folder / "plain.mkv")
    content = bytearray((folder / "plain.mkv").read_bytes())
    place = content.index(b"\x44\x89\x88") + 3
    content[place : place + 8] = struct.pack(">d", 1e18)
    (folder / "duration.mkv").write_bytes(content)
    ffmpeg("-i", plain, "-c:v", "mpeg4", folder / "plain.avi")
    content = bytearray((folder / "plain.avi").read_bytes())
    place = content.index(b"strh") + 8 + 32
    content[place : place + 4] = struct.pack("<I", 10**9)
    (folder / "frames.avi").write_bytes(content)
    return {
        "samples.mp4": "a header that claims 1000000000 frames in a file of",
        "length.mp4": "a header that claims a length of",
        "delta.mp4": "truncated: 0.10 s of video where the header promises 3.00 s",
        "duration.mkv": "its header claims a length of",
        "frames.avi": "its header claims a length of",
    }


REFUSED = """
import resource, sys
from lightning_apollo.data.media.video import probe
from lightning_apollo.structures import MediaError
probe(sys.argv[1])
base = resource.getrusage(resource.RUSAGE_SELF)
for path in sys.argv[2:]:
    try:
        print("read", probe(path))
    except MediaError as error:
        print(error.reason)
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_maxrss - base.ru_maxrss, after.ru_utime - base.ru_utime)
"""


def test_headers_that_claim_too_much_are_refused_and_cost_little(plain, tmp_path):
    expected = claims(plain, tmp_path)
    words = [sys.executable, "-c", REFUSED, plain, *(tmp_path / name for name in expected)]
    *reasons, cost = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for reason, (name, pattern) in zip(reasons, expected.items(), strict=True):
        assert re.search(pattern, reason), f"{name}: {reason}"
    kilobytes, seconds = map(float, cost.split())
    assert kilobytes < 64 * 1024
    assert seconds < 1


@pytest.mark.parametrize("name", ["2024-05-01T12:30:00.mp4", "concat:..", "-y.mp4", "100%d.mp4", "clip*?{1}.mp4"])
def test_a_name_is_a_name(plain, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(name, "b.mp4") if name == "concat:.." else Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plain.read_bytes())
    write_clip(tmp_path.parent / "b.mp4", 3, 10, *h264())
    info = probe(str(path), "video")
    assert (info.path, info.num_frames) == (str(path), 30)
    assert read_number(decode(info, torch.tensor([1.25]), (48, 160)).pixels[0]) == 12


PLAYLISTS = {
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {url}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "gif": "GIF89a<MPD dash:profile:isoff-on-demand:2011 {url}",
    "like a transport stream": "#EXTM3U\n#EXTINF:4.0,\n{url}\n" + "G" * 2000,
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_refused_and_nothing_leaves_the_machine(plain, tmp_path, kind):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for url in (f"http://127.0.0.1:{server.server_port}/a.mp4", plain):
            (tmp_path / "clip.mp4").write_text(PLAYLISTS[kind].format(url=url))
            with pytest.raises(MediaError, match=r"playlist|header"):
                probe(tmp_path / "clip.mp4", "video")
        server.shutdown()
    assert not asked


def test_a_codec_that_is_unknown_is_told_from_no_video(plain, tmp_path):
    (tmp_path / "odd.mp4").write_bytes(plain.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="codec"):
        probe(tmp_path / "odd.mp4")
    (tmp_path / "unset.mp4").write_bytes(plain.read_bytes().replace(b"avcC", b"avcX"))
    with pytest.raises(MediaError, match=r"FFmpeg cannot.*: "):
        probe(tmp_path / "unset.mp4")
