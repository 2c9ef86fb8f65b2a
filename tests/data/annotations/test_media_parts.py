"""Segments, rates and paths in every spelling against hand-written parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_apollo.data.annotations.manifest import ManifestError, read_manifest
from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import MediaPart, RowError
from lightning_apollo.data.storage.address import EmbeddedAddress
from tests.small_data import turns, write_rows

ANSWER = {"role": "assistant", "content": "A"}
VIDEO = {"type": "video", "video": "a.mp4"}
CUT = MediaPart("video", "a.mp4", 2.0, 3.5)
TWO = (MediaPart("video", "a.mp4", 1.0, 2.0), MediaPart("video", "b.mp4", 3.0, 4.0))
FRAMES = ("0.jpg", "1.jpg", "2.png")


def _row(question: str = "Q", **fields: object) -> dict[str, object]:
    return {"conversations": turns(question, "A"), **fields}


def _chat(*parts: object, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "Q"}]}, ANSWER], **fields}


def _media(row: dict[str, object]) -> tuple[MediaPart, ...]:
    return tuple(part for message in parse_row(row) for part in message.parts if isinstance(part, MediaPart))


SEGMENTS = {
    "row": _row("<video>Q", video="a.mp4", start_time=2, end_time=3.5),
    "row, video_": _row(video="a.mp4", video_start=2, video_end=3.5),
    "row, short": _row(video="a.mp4", start=2, end=3.5),
    "row, begin": _row(video="a.mp4", begin=2, end=3.5),
    "row, seconds": _row(video="a.mp4", start_sec=2, end_sec=3.5),
    "row, camel": _row(video="a.mp4", startTime=2, endTime=3.5),
    "row, two spellings that agree": _row(video="a.mp4", start=2, start_time=2.0, end=3.5),
    "row, pair": _row(video="a.mp4", segment=[2, 3.5]),
    "row, clip": _row(video="a.mp4", clip={"start": 2, "end": 3.5}),
    "row, lists of one": _row(video=["a.mp4"], start_time=[2], end_time=[3.5]),
    "object": _row(video={"path": "a.mp4", "start": 2, "end": 3.5}),
    "objects": _row("<video>Q", videos=[{"path": "a.mp4", "segment": [2, 3.5]}]),
    "beside an inline path": _chat({**VIDEO, "start_time": 2, "end_time": 3.5}),
    "in the part": _chat({**VIDEO, "video_start": 2, "video_end": 3.5}),
    "in the part's object": _chat({"type": "video_url", "video_url": {"url": "a.mp4", "start": 2, "end": 3.5}}),
    "row and inline path": _chat(VIDEO, start_time=2, end_time=3.5),
    "part that takes from the row": _chat({"type": "video", "start": 2, "end": 3.5}, videos=["a.mp4"]),
    "half in the row, half in the part": _chat({**VIDEO, "start": 2}, end=3.5),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_is_read_wherever_it_stands(name: str) -> None:
    assert _media(SEGMENTS[name]) == (CUT,)


@pytest.mark.parametrize(
    "times",
    [
        {"start_time": [1, 3], "end_time": [2, 4]},
        {"segment": [[1, 2], [3, 4]]},
        {"clip": [{"start": 1, "end": 2}, {"start": 3, "end": 4}]},
    ],
)
def test_several_videos_have_lists_of_times(times: dict[str, object]) -> None:
    assert _media(_row("<video><video>Q", video=["a.mp4", "b.mp4"], **times)) == TWO
    assert _media(_chat(VIDEO, {"type": "video", "video": "b.mp4"}, **times)) == TWO


def test_a_rate_and_a_number_of_frames_are_read() -> None:
    shown = MediaPart("video", "a.mp4", fps=2.0, max_frames=8)
    assert _media(_row(video="a.mp4", fps=2, max_frames=8)) == (shown,)
    assert _media(_chat({**VIDEO, "fps": 2.0, "max_frames": 8})) == (shown,)
    assert _media(_row(video=["a.mp4", "b.mp4"], fps=[2, None])) == (
        MediaPart("video", "a.mp4", fps=2.0),
        MediaPart("video", "b.mp4"),
    )


LISTS = {
    "in the part": _chat({"type": "video", "video": list(FRAMES), "fps": 2}),
    "in the part, sample_fps": _chat({"type": "video", "video": list(FRAMES), "sample_fps": 2.0}),
    "in the part, raw_fps": _chat({"type": "video", "video": list(FRAMES), "raw_fps": 2}),
    "in videos": _row("<video>Q", videos=[list(FRAMES)], fps=2),
    "in video": _row("<video>Q", video=list(FRAMES), fps=2),
    "in video, behind <image>": _row("<image>Q", video=list(FRAMES), fps=2),
    "in video, no marker": _row(video=list(FRAMES), fps=2),
    "objects": _row(videos=[[{"path": name} for name in FRAMES]], fps=2),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_pictures_is_one_video_that_shows_all_of_them(name: str) -> None:
    expected = MediaPart("video", "0.jpg", fps=2.0, frame_paths=FRAMES, frames_fps=2.0)
    assert _media(LISTS[name]) == (expected,)
    assert expected.paths == FRAMES


def test_fps_beside_sample_fps_is_what_is_shown() -> None:
    (part,) = _media(_chat({"type": "video", "video": list(FRAMES), "sample_fps": 4, "fps": 1}))
    assert (part.frames_fps, part.fps) == (4.0, 1.0)


def test_image_stands_for_the_videos_of_a_row_without_images() -> None:
    assert _media(_row("<image>\nQ", video="a.mp4")) == (MediaPart("video", "a.mp4"),)
    assert _media(_row("<image><image>Q", video=["a.mp4", "b.mp4"])) == (
        MediaPart("video", "a.mp4"),
        MediaPart("video", "b.mp4"),
    )
    with pytest.raises(RowError, match=r"\b3 <image>.*\b1 videos"):
        parse_row(_row("<image><image><image>Q", video="a.mp4"))
    with pytest.raises(RowError, match=r"<image> and <video>.* image:"):
        parse_row(_row("<image><video>Q", video=["a.mp4", "b.mp4"]))


PATHS = {
    "object": _row("<image>Q", image={"path": "a.jpg"}),
    "object of a table": _row(images=[{"bytes": None, "path": "a.jpg"}]),
    "url": _row(image={"url": "a.jpg"}),
    "both lists": _row("<image>Q", image="a.jpg", images=["a.jpg"]),
    "part": _chat({"type": "image", "image": {"path": "a.jpg"}}),
    "part of another name": _chat({"type": "image", "image_url": "a.jpg"}),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_may_stand_in_an_object(name: str) -> None:
    assert _media(PATHS[name]) == (MediaPart("image", "a.jpg"),)


def test_file_urls_are_paths_that_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "the röot"
    root.mkdir()
    rows = [_row(image=(root / "a b.jpg").as_uri()), _row(image=(tmp_path / "a.jpg").as_uri())]
    manifest = read_manifest(write_rows(root / "rows.jsonl", rows), "s", root)
    assert manifest[0].media == (MediaPart("image", str(root / "a b.jpg")),)
    with pytest.raises(ManifestError, match=r"media path '.*' .*root"):
        manifest[1]


def test_every_frame_of_a_list_stays_inside_the_root(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [_row(video=["a.jpg", "../b.jpg"], fps=1)])
    with pytest.raises(ManifestError, match=r"media path '\.\./b\.jpg' .*root"):
        read_manifest(path, "s", tmp_path)[0]


def test_media_that_lie_inside_a_row_are_passed_on() -> None:
    address = EmbeddedAddress("rows.parquet::image@0+9://")
    assert _media(_row(image=address)) == (MediaPart("image", address),)
    assert _media(_row(images=[{"path": address}])) == (MediaPart("image", address),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row(video="a.mp4", start=2, start_time=3), "start 2 and start_time 3 "),
        (_chat({**VIDEO, "start": 2}, start=3), r".*begin .*\b2\b.*\b3\b"),
        (_chat({**VIDEO, "start": 4}, end=3), r".*end 3 .*begin 4\b"),
        (_row(video="a.mp4", segment=[3, 2]), r"segment 2 .*segment 3\b"),
        (_row(video="a.mp4", segment="0:10"), r"segment .*'0:10': .*\[begin, end\]"),
        (_row(video="a.mp4", start="00:01:05"), r"start .*'00:01:05': .*seconds"),
        (_row(video="a.mp4", start=2, duration=5), r"'duration' .*'end_time'"),
        (_row(video=["a.mp4", "b.mp4"], segment=[1, 2]), r"segment .*2 videos"),
        (_row(video=["a.mp4", "b.mp4"], start=[1, 2, 3]), r"start .*3 entries.*2 videos"),
        (_row(image="a.jpg", start=2), r"'start' .*'video'"),
        (_row(fps=2), r"'fps' .*video"),
        (_row(video="a.mp4", fps=0), r"fps .*\b0\b"),
        (_row(video="a.mp4", fps=float("inf")), r"fps .*\binf\b"),
        (_row(video="a.mp4", max_frames=2.5), r"max_frames .*\b2\.5\b"),
        (_row(video=["0.jpg", "1.jpg"]), r".*2 frame pictures .*'fps'"),
        (_row(video=["0.jpg", "1.mp4"]), r".*videos.*pictures.*'images'"),
        (_row(video="a.mp4", sample_fps=2), r"'sample_fps' .*'raw_fps' .*'fps'"),
        (_row(images=[["0.jpg", "1.jpg"]]), r".*list.* image:"),
        (_row(video=[[]]), r".*empty list.* video:"),
        (_row(image={"path": None}), r".*\{'path': None\}.*'path'$"),
        (_row(image="a.jpg", images=["b.jpg"]), "'image' and 'images' "),
        (_chat({"type": "video", "video": "a.mp4", "path": "b.mp4"}), r".*'video' .*files"),
        (_row(image="file://server/a.jpg"), r".*'file://server/a\.jpg' "),
        ({**_row(), "stream": "false"}, r"stream .*'false'"),
    ],
)
def test_what_cannot_be_meant_is_refused(row: dict[str, object], reason: str) -> None:
    with pytest.raises(RowError, match=f"^{reason}"):
        parse_row(row)
