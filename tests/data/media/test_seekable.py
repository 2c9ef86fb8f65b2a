"""Films with a frame table against exact mode. Bytes that are read of files and stores."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.media import kept_tables, seekable, video
from lightning_apollo.data.media.decoder import open_container
from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.storage import remote
from lightning_apollo.structures import Frames, MediaInfo
from tests.counting_proxy import counting_proxy
from tests.media_files import ffmpeg, h264, variable_rate_seconds, write_clip, write_variable_rate
from tests.odd_files import OPEN_GROUPS
from tests.places import ROOT
from tests.s3 import aws_environment, put, s3_server

NOISE = "testsrc2=size=640x360:rate=30:duration={},noise=alls=20:allf=t,format=yuv420p"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    plain = write_clip(folder / "plain.mp4", 40, 30000 / 1001, *h264(12))
    films = {
        "plain": plain,
        "open groups": write_clip(folder / "open.mp4", 40, 10, *OPEN_GROUPS),
        "varying": write_variable_rate(folder / "varying.mp4"),
        "matroska": write_clip(folder / "shifted.mkv", 40, 10, *h264(12), "-output_ts_offset", 3.5),
        "fragments": write_clip(folder / "fragments.mp4", 40, 10, *h264(12), "-movflags", "frag_keyframe+empty_moov"),
    }
    for name, options in {
        "rotated": ("-metadata:s:v", "rotate=90"),
        "cut": ("-t", 0.9),
        "late": ("-output_ts_offset", 1.7),
    }.items():
        films[name] = folder / f"{name}.mp4"
        ffmpeg(*(("-ss", 0.31) if name == "cut" else ()), "-i", plain, "-c", "copy", *options, films[name])
    for clip in ("bikes", "carphone_distorted"):
        films[clip] = ROOT / ".cache" / "real_clips" / f"{clip}.mp4"
    return films


def seen(path: Path) -> tuple[MediaInfo, list[Frames]]:
    """Facts, then frames in one call from moments of all kinds and in calls for single ones."""
    info = probe(path)
    moments = info.begin_seconds + torch.linspace(0, 0.999, 41, dtype=torch.float64) * info.duration_seconds
    return info, [decode(info, part, (48, 64)) for part in (moments, *moments[::13].split(1))]


NAMES = ["plain", "open groups", "varying", "matroska", "fragments", "rotated", "cut", "late"]


@pytest.mark.parametrize("name", [*NAMES, "bikes", "carphone_distorted"])
def test_facts_frames_and_times_are_those_of_exact_mode(
    films: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tables = films[name], list[FrameTable | None]()

    def noted(*arguments) -> FrameTable | None:
        tables.append(kept_tables.frame_table(*arguments))
        return tables[-1]

    with monkeypatch.context() as patch:
        patch.setattr(seekable, "frame_table", lambda *_: None)
        expected_info, expected = seen(path)
    monkeypatch.setattr(kept_tables, "MIN_SCANNED_BYTES", 0)
    monkeypatch.setattr(seekable, "frame_table", noted)
    info, found = seen(path)
    assert info == expected_info
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.pts_seconds.tolist() == other.pts_seconds.tolist()
    assert tables
    assert None not in tables


def test_the_frames_of_a_varying_rate_are_those_that_play(films: dict[str, Path], tmp_path: Path) -> None:
    """Times written by hand, in a film without B-frames, whose table comes from its index."""
    times = ("-vf", "settb=1/1000,setpts='if(lt(N,20),N/10,2+(N-20)/2.5)/TB'", "-fps_mode", "passthrough")
    path = write_clip(tmp_path / "in_order.mp4", 40, 10, *times, "-video_track_timescale", 1000, *h264(12, b_frames=0))
    for film in (path, films["varying"]):
        info = probe(film)
        moments = torch.tensor([variable_rate_seconds(number) + 0.05 for number in (0, 7, 19, 20, 31, 39)])
        shown = decode(info, moments.double(), (48, 160)).pts_seconds.tolist()
        assert shown == pytest.approx([variable_rate_seconds(number) for number in (0, 7, 19, 20, 31, 39)])


@pytest.mark.parametrize("change", ["stream", "begin", "frames"])
def test_a_table_that_the_header_gainsays_is_not_used(
    films: dict[str, Path], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = kept_tables.frame_table(str(films["plain"]), open_container(str(films["plain"])))
    assert table is not None
    ticks, keys = table.ticks, table.is_key_frame
    if change == "frames":
        ticks, keys = torch.arange(41).numpy() * 1001, torch.ones(41, dtype=torch.bool).numpy()
    false = FrameTable(
        table.stream_index + (change == "stream"), table.time_base, ticks + (change == "begin"), keys, 10**6
    )
    monkeypatch.setattr(seekable, "frame_table", lambda *_: false)
    film = seekable.open_film(str(films["plain"]), open_container(str(films["plain"])), 1)
    assert film is not None
    assert film.table is None
    assert film.num_frames == 40


class _Counted(io.FileIO):
    """A file that counts the bytes that are read of it."""

    num_bytes = 0

    def readinto(self, buffer, /) -> int | None:
        num_bytes = super().readinto(buffer)
        self.num_bytes += num_bytes or 0
        return num_bytes


def long_film(path: Path, seconds: int, gop: int, kilobits: int, repeats: int, *options: object) -> Path:
    """Noise at a constant bit rate, one part of it over and over."""
    part, rate = path.with_suffix(".part.mp4"), f"{kilobits}k"
    encoder = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", 2, "-sc_threshold", 0, "-b:v", rate)
    ffmpeg("-f", "lavfi", "-i", NOISE.format(seconds), *encoder, "-maxrate", rate, "-bufsize", rate, "-g", gop, part)
    ffmpeg("-stream_loop", repeats - 1, "-i", part, "-c", "copy", *options, path)
    return path


def test_a_film_of_100_mb_with_its_index_in_front_is_probed_from_under_a_megabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = long_film(tmp_path / "film.mp4", 4, 120, 8000, 26, "-movflags", "faststart")
    assert path.stat().st_size > 100e6
    raw = _Counted(path)
    with io.BufferedReader(raw) as file:
        monkeypatch.setattr(video, "open_media", lambda _: file)
        info = probe(path)
    assert info.num_frames == 26 * 4 * 30
    assert raw.num_bytes < 1e6


@pytest.mark.slow
@pytest.mark.parametrize(("gop", "limit"), [(60, 0.15), (250, 1.3)])
def test_a_store_sends_the_groups_that_are_hit(
    tmp_path: Path, gop: int, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame each 20 s at 2 Mbit/s, as 180 of an hour: a share of the file, with long groups of the groups that are hit."""
    path = long_film(tmp_path / "film.mp4", 50, gop, 2000, 12, "-movflags", "faststart")
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 2**18, raising=False)
    with s3_server() as server, counting_proxy(server.get_host_and_port()[1]) as proxy:
        address = put("film.mp4", path.read_bytes())
        with aws_environment(proxy.url):
            info = probe(address)
            first, proxy.num_bytes = proxy.num_bytes, 0
            moments = sample_timestamps(info, SamplingConfig(max_frames=30))
            frames = decode(info, moments, (36, 64))
    assert len(frames.pts_seconds) == 30
    assert first < 2e6
    group_bytes = path.stat().st_size * gop / info.num_frames
    most = limit * (path.stat().st_size if gop == 60 else 30 * group_bytes)
    assert proxy.num_bytes <= most, f"{proxy.num_bytes} bytes of {path.stat().st_size}"
