"""Frame tables from the indexes of MP4 files, against the packets that ffprobe reads."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.mp4_table import read_mp4_table
from tests.counted_file import CountedFile
from tests.media_files import ffmpeg, h264, write_clip, write_variable_rate
from tests.odd_files import OPEN_GROUPS
from tests.places import ROOT

GROUPS, IN_ORDER = h264(12), h264(12, b_frames=0)
VARYING = ("-vf", "settb=1/1000,setpts='if(lt(N,20),N/10,2+(N-20)/2.5)/TB'", "-video_track_timescale", 1000)
HEVC = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error:keyint=12")

# name: frames a second and options of the encoder, then of a copy where there is one
CLIPS: dict[str, tuple[float, tuple[object, ...], tuple[object, ...] | None]] = {
    "plain.mp4": (10, GROUPS, None),
    "in order.mp4": (25, IN_ORDER, None),
    "ntsc.mov": (30000 / 1001, GROUPS, None),
    "no edits.mp4": (30, (*GROUPS, "-use_editlist", 0), None),
    "negative shifts.mp4": (10, (*GROUPS, "-movflags", "negative_cts_offsets"), None),
    "index first.mp4": (10, (*GROUPS, "-movflags", "faststart"), None),
    "open groups.mp4": (10, OPEN_GROUPS, None),
    "open groups, cut.mp4": (10, OPEN_GROUPS, ("-ss", 2.5)),
    "one group.mp4": (12.5, h264(), None),
    "hevc.mp4": (10, HEVC, None),
    "vp9.mp4": (10, ("-c:v", "libvpx-vp9", "-g", 12), None),
    "mpeg4.mp4": (10, ("-c:v", "mpeg4", "-g", 12, "-bf", 2), None),
    "cut.mp4": (30000 / 1001, GROUPS, ("-ss", 1.03)),
    "cut at both ends.mp4": (10, GROUPS, ("-ss", 1.03, "-t", 1.5)),
    "late.mp4": (10, GROUPS, ("-itsoffset", 1.7)),
    "late, in order.mp4": (25, IN_ORDER, ("-itsoffset", 1.7)),
    "varying, in order.mp4": (10, (*VARYING, "-fps_mode", "passthrough", *IN_ORDER), None),
    "camera.3gp": (10, GROUPS, ()),
}
# where only a scan can tell: fragments, several films, every frame a key frame, a rate that FFmpeg guesses, a repeated part
UNSURE: dict[str, tuple[object, ...]] = {
    "fragments.mp4": (*GROUPS, "-movflags", "frag_keyframe+empty_moov"),
    "key frames.mp4": h264(1),
    "pictures.mov": ("-c:v", "mjpeg"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def write(path: Path, fps: float, options: tuple[object, ...], copy: tuple[object, ...] | None) -> Path:
    if copy is None:
        return write_clip(path, 60, fps, *options)
    before, after = (copy[:2], copy[2:]) if copy else ((), ())
    whole = write_clip(path.with_name(f"whole of {path.name}.mp4"), 60, fps, *options)
    sound = ("-f", "lavfi", "-i", "sine=d=6", "-map", "1", "-map", "0")  # the film is stream 1
    ffmpeg(*before, "-i", whole, *sound, *after, "-c:v", "copy", "-c:a", "aac", path)
    return path


def table_of(path: Path) -> FrameTable | None:
    with path.open("rb") as file:
        return read_mp4_table(file)


def packets(path: Path) -> tuple[list[int], list[bool], int, str]:
    """Times, key frames, last end and time base of the packets that are shown."""
    entries = "packet=pts,duration,flags:stream=time_base"
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shown = sorted((int(p["pts"]), p) for p in found["packets"] if "D" not in p["flags"])
    ticks = [pts for pts, _ in shown]
    keys = [p["flags"].startswith("K") for _, p in shown]
    return ticks, keys, max(pts + int(p["duration"]) for pts, p in shown), found["streams"][0]["time_base"]


def check(path: Path) -> None:
    table = table_of(path)
    ticks, keys, end, time_base = packets(path)
    assert table is not None
    assert table.ticks.tolist() == ticks
    assert table.is_key_frame.tolist() == keys
    assert table.end_ticks == end
    assert "{}/{}".format(*table.time_base) == time_base


@pytest.mark.parametrize("name", CLIPS)
def test_the_table_is_that_of_the_packets(folder: Path, name: str) -> None:
    check(write(folder / name, *CLIPS[name]))


@pytest.mark.parametrize("name", ["bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine"])
def test_the_table_of_a_real_clip_is_that_of_the_packets(name: str) -> None:
    check(ROOT / ".cache" / "real_clips" / f"{name}.mp4")


@pytest.mark.parametrize("name", UNSURE)
def test_where_only_a_scan_can_tell_there_is_no_table(tmp_path: Path, name: str) -> None:
    assert table_of(write_clip(tmp_path / name, 30, 10, *UNSURE[name])) is None


def test_a_rate_that_ffmpeg_guesses_leaves_no_table(tmp_path: Path) -> None:
    assert table_of(write_variable_rate(tmp_path / "variable.mp4")) is None


def test_two_films_leave_no_table(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.mp4", 10, 10, *GROUPS)
    ffmpeg("-i", one, "-i", one, "-map", 0, "-map", 1, "-c", "copy", tmp_path / "two.mp4")
    assert table_of(tmp_path / "two.mp4") is None


def test_a_film_that_was_cut_short_leaves_no_table(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 40, 10, *GROUPS, "-movflags", "faststart").read_bytes()
    assert read_mp4_table(io.BytesIO(whole)) is not None
    assert read_mp4_table(io.BytesIO(whole[:-1])) is None


def test_a_mark_on_a_frame_that_is_no_key_frame_leaves_no_table(tmp_path: Path) -> None:
    """FFmpeg reads from the pictures of H.264 which are key frames."""
    content = bytearray(write_clip(tmp_path / "clip.mp4", 40, 10, *GROUPS).read_bytes())
    at = content.index(b"stss") + 12
    assert read_mp4_table(io.BytesIO(content)) is not None
    first, second, third = struct.unpack_from(">3I", content, at)
    assert (first, third) > (0, second + 1)
    struct.pack_into(">I", content, at + 4, second + 1)
    assert read_mp4_table(io.BytesIO(content)) is None


def test_a_frame_that_is_said_to_last_for_days_leaves_no_table(tmp_path: Path) -> None:
    content = bytearray(write_clip(tmp_path / "clip.mp4", 40, 10, *GROUPS).read_bytes())
    struct.pack_into(">I", content, content.index(b"stts") + 16, 2**31 - 1)
    assert read_mp4_table(io.BytesIO(content)) is None


def test_the_media_are_not_read(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", 600, 25, *GROUPS, "-b:v", "2M", "-movflags", "faststart").read_bytes()
    file = CountedFile(film)
    table = read_mp4_table(file)
    assert table is not None
    assert len(table) == 600
    assert file.num_bytes < film.index(b"mdat") + 4096 + 100  # and the beginning of one key frame


@pytest.mark.parametrize("seed", range(4))
def test_no_header_however_broken_breaks_the_reader(tmp_path: Path, seed: int) -> None:
    """A table that is made all the same has times that rise."""
    whole = write_clip(tmp_path / "whole.mp4", 40, 10, *GROUPS, "-movflags", "faststart").read_bytes()
    chance, end, num_tables = random.Random(seed), whole.index(b"mdat"), 0
    for _ in range(250):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 4])):
            place = chance.randrange(end)
            content[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        table = read_mp4_table(io.BytesIO(content))
        if table is not None:
            num_tables += 1
            assert bool((np.diff(table.ticks) > 0).all())
    assert 0 < num_tables < 250
