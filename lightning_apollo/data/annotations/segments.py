"""Segment, rate and number of frames of a video in every spelling that is read.

A segment counts in seconds from the start of the video as a player shows it. Spellings beside each other must say the
same, and so must a row and a video in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

from lightning_apollo.data.conversation import MediaPart, RowError

_LONGEST_SECONDS = 1e9
_MOST_FPS = 1000
_MOST_FRAMES = 100_000

Number = TypeVar("Number", int, float)


def _spellings(*names: str) -> list[str]:
    """start, start_time, video_start, clip_start_sec, startTime and so on."""
    snake = [
        f"{prefix}{name}{suffix}"
        for name in names
        for suffix in ("", "_time", "_sec", "_secs", "_second", "_seconds", "_s")
        for prefix in ("", "video_", "clip_", "segment_", "t_")
    ]
    return [*snake, *(word[0] + word.title().replace("_", "")[1:] for word in snake if "_" in word)]


PAIR_KEYS = ("segment", "video_segment", "clip", "span", "time_span", "time_range")  # [begin, end]
_NAMES = {
    **dict.fromkeys(_spellings("start", "begin"), "begin_seconds"),
    **dict.fromkeys(_spellings("end"), "end_seconds"),
    **dict.fromkeys(PAIR_KEYS, "pair"),
    "fps": "fps",
    "sample_fps": "frames_fps",
    "raw_fps": "frames_fps",
    "max_frames": "max_frames",
}
KEYS = frozenset(_NAMES)


@dataclass(frozen=True)
class Settings:
    """Of one video; None: not said."""

    begin_seconds: float | None = None
    end_seconds: float | None = None
    fps: float | None = None
    frames_fps: float | None = None  # of a list of frame pictures
    max_frames: int | None = None


NONE = Settings()


def segment_settings(fields: Mapping[str, object], num_videos: int = 1) -> list[Settings]:
    """The settings of each video among the keys that stand beside them all; times of several videos are lists."""
    found = [key for key in fields if key in KEYS]
    if not found:
        return [NONE] * num_videos
    if num_videos == 0:
        raise RowError(f"{found[0]!r} without a video: name the video in 'video', or remove the key")
    said: list[dict[str, tuple[str, float]]] = [{} for _ in range(num_videos)]  # name -> key and number
    for key in found:
        for one, value in zip(said, _per_video(key, fields[key], num_videos), strict=True):
            for name, number in _numbers(key, value):
                first_key, first = one.setdefault(name, (key, number))
                if first != number:
                    raise RowError(f"{first_key} {first:g} and {key} {number:g} disagree: keep one of them")
    if "duration" in fields and any("begin_seconds" in one and "end_seconds" not in one for one in said):
        raise RowError(
            "'duration' beside a begin without an end: give 'end_time', in seconds from the start of the video"
        )
    return [_settings(one) for one in said]


def with_settings(part: MediaPart, given: Settings) -> MediaPart:
    """The video with settings from elsewhere in its row; RowError where its own are others."""
    if given == NONE:
        return part
    begin = _agreed("the begin", part.begin_seconds, given.begin_seconds)
    end = _agreed("the end", part.end_seconds, given.end_seconds)
    _check_order("the end", end, "the begin", begin)
    return replace(
        part,
        begin_seconds=begin,
        end_seconds=end,
        fps=_agreed("fps", part.fps, given.fps),
        frames_fps=_agreed("sample_fps", part.frames_fps, given.frames_fps),
        max_frames=_agreed("max_frames", part.max_frames, given.max_frames),
    )


def with_frame_rate(part: MediaPart) -> MediaPart:
    """The video as it is shown: all pictures of a list, up to the most that are allowed, unless `fps` is said too."""
    if not part.frame_paths:
        if part.frames_fps is not None:
            raise RowError("'sample_fps' or 'raw_fps' of a video that is one file: give 'fps', frames a second to show")
        return part
    rate = part.fps if part.frames_fps is None else part.frames_fps
    if rate is None:
        raise RowError(
            f"a video of {len(part.frame_paths)} frame pictures without their rate: give 'fps', pictures a second"
        )
    return replace(part, frames_fps=rate, fps=rate if part.fps is None else part.fps)


def _per_video(key: str, value: object, num_videos: int) -> Sequence[object]:
    """The value of each video."""
    is_pair = _NAMES[key] == "pair"
    is_list = isinstance(value, list) and not (is_pair and all(_is_number(one) or one is None for one in value))
    if isinstance(value, list) and is_list:
        if len(value) != num_videos:
            raise RowError(f"{key} has {len(value)} entries for {num_videos} videos: give one for each")
        return value
    if num_videos > 1 and key not in ("fps", "sample_fps", "raw_fps", "max_frames"):
        raise RowError(f"{key} of {num_videos} videos: give a list with one entry for each")
    return [value] * num_videos


def _numbers(key: str, value: object) -> Iterator[tuple[str, float]]:
    """The settings that a key and its value stand for."""
    name = _NAMES[key]
    if value is None:
        return
    if name != "pair":
        yield name, _number(key, value)
    elif isinstance(value, list) and len(value) == 2:
        for side, seconds in zip(("begin_seconds", "end_seconds"), value, strict=True):
            if seconds is not None:
                yield side, _number(key, seconds)
    elif isinstance(value, dict) and all(_NAMES.get(inner, "").endswith("_seconds") for inner in value):
        for inner, seconds in value.items():
            yield from _numbers(inner, seconds)
    else:
        raise RowError(f"{key} is {value!r:.40}: give it as [begin, end] in seconds from the start of the video")


def _settings(said: Mapping[str, tuple[str, float]]) -> Settings:
    numbers = {name: number for name, (_, number) in said.items()}
    begin_key, begin = said.get("begin_seconds", ("", None))
    end_key, end = said.get("end_seconds", ("", None))
    _check_order(end_key, end, begin_key, begin)
    most = numbers.get("max_frames")
    return Settings(begin, end, numbers.get("fps"), numbers.get("frames_fps"), None if most is None else int(most))


def _check_order(end_key: str, end: float | None, begin_key: str, begin: float | None) -> None:
    if begin is not None and end is not None and end <= begin:
        raise RowError(f"{end_key} {end:g} is not after {begin_key} {begin:g}: correct one of them")


def _agreed(name: str, own: Number | None, given: Number | None) -> Number | None:
    if own is not None and given is not None and own != given:
        raise RowError(f"{name} is {own:g} for a video and {given:g} in its row: keep one of them")
    return given if own is None else own


def seconds(key: str, value: object) -> float:
    """A moment of a video; RowError for what is none."""
    if not _is_number(value) or not 0 <= value <= _LONGEST_SECONDS:
        raise RowError(f"{key} is {value!r:.40}: give it in seconds from the start of the video, as a number")
    return float(value)


def _number(key: str, value: object) -> float:
    name = _NAMES[key]
    if name == "max_frames":
        if not _is_number(value) or not 1 <= value <= _MOST_FRAMES or value != int(value):
            raise RowError(f"{key} is {value!r:.40}: give a whole number of frames from 1 to {_MOST_FRAMES:,}")
        return int(value)
    if name in ("fps", "frames_fps"):
        if not _is_number(value) or not 0 < value <= _MOST_FPS:
            raise RowError(f"{key} is {value!r:.40}: give frames a second, above 0 and at most {_MOST_FPS:,}")
        return float(value)
    return seconds(key, value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
