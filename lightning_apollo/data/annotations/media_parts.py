"""Media of a row: paths or objects, frame lists and their order among the turns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard
from urllib.parse import unquote

from lightning_apollo.data.annotations import keys, segments
from lightning_apollo.data.annotations.keys import KeyCheck
from lightning_apollo.data.conversation import MediaPart, Message, RowError, TextPart
from lightning_apollo.data.storage.address import EmbeddedAddress
from lightning_apollo.structures import Modality

_PICTURE = re.compile(r"\.(?:jpe?g|png|webp|bmp|tiff?|avif|jp2|ppm|pgm)$", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON escapes can spell halves of a pair, which no tokenizer accepts


class RowMedia:
    """The media that a row lists beside its turns, handed out one after the other as the text asks for them."""

    def __init__(self, fields: Mapping[str, object], check: KeyCheck) -> None:
        self._listed: dict[Modality, list[MediaPart]] = {
            "image": listed_media(fields, "image", check),
            "video": listed_media(fields, "video", check),
        }
        self._num_asked: dict[Modality, int] = {"image": 0, "video": 0}
        self._num_borrowed = 0  # videos that an <image> of the text stands for

    @property
    def is_listed(self) -> bool:
        """The row lists media."""
        return bool(self._listed["image"] or self._listed["video"])

    def marked(self, modality: Modality) -> Iterator[MediaPart]:
        """The file for a marker in text. In a row that lists videos alone, <image> stands for one of these."""
        if modality == "image" and self._listed["video"] and not self._listed["image"]:
            self._num_borrowed += 1
            modality = "video"
        return self.take(modality)

    def take(self, modality: Modality) -> Iterator[MediaPart]:
        """The next image or video, or nothing where the row lists fewer: `prepend_unreferenced_media` then refuses the row."""
        position = self._num_asked[modality]
        self._num_asked[modality] += 1
        return iter(self._listed[modality][position : position + 1])

    def prepend_unreferenced_media(self, messages: list[Message]) -> list[Message]:
        """The turns with the media that no text asks for in front of the first user turn: images, then videos."""
        if 0 < self._num_borrowed < self._num_asked["video"]:
            raise RowError("the text shows <image> and <video> but the row lists no image: list one file for each")
        rest: list[MediaPart] = []
        for modality, listed in self._listed.items():
            num_asked = self._num_asked[modality]
            if num_asked == 0:
                rest += listed
            elif num_asked != len(listed):
                marker, what = ("image", " videos") if self._num_borrowed else (modality, "")
                raise RowError(
                    f"the text shows {num_asked} <{marker}> but the row lists {len(listed)}{what}: "
                    "list one file for each, in order"
                )
        for position, message in enumerate(messages if rest else ()):
            if message.role == "user":
                messages[position] = Message("user", (*rest, *message.parts))
                break
        return messages


def listed_media(fields: Mapping[str, object], modality: Modality, check: KeyCheck) -> list[MediaPart]:
    """The images or videos that a row lists under the name of the modality, or its plural."""
    found = [fields[key] for key in (modality, f"{modality}s") if key in fields and fields[key] != []]
    if not found:
        return []
    lists = [value if isinstance(value, list) else [value] for value in found]
    if len(lists) == 2 and lists[0] != lists[1]:
        raise RowError(f"{modality!r} and '{modality}s' list different files: keep one of them")
    values = lists[0]
    are_pictures = [modality == "video" and _is_picture(value) for value in values]
    if len(values) > 1 and all(are_pictures):
        return [media_part(values, modality, check)]
    if len(values) > 1 and any(are_pictures):
        raise RowError(
            "a list of videos and pictures: list pictures in 'images', or the frames of each video in a list"
        )
    return [media_part(value, modality, check) for value in values]


def media_part(value: object, modality: Modality, check: KeyCheck) -> MediaPart:
    """An image or video given as a path, an object that holds one, or for a video a list of its frames."""
    if isinstance(value, dict):
        fields = {key: item for key, item in value.items() if item is not None}
        check(fields, keys.VIDEO if modality == "video" else keys.IMAGE)
        part = media_part(_location(fields, ("path", "url"), f"the {modality} {value!r:.40}"), modality, check)
        return segments.with_settings(part, *segments.segment_settings(fields)) if modality == "video" else part
    if not isinstance(value, list):
        return MediaPart(modality, read_path(value))
    if modality == "image":
        raise RowError("a list of pictures in the place of one image: list all images side by side")
    if not value:
        raise RowError("an empty list in the place of a video: list its frames, or name its file")
    frames = [media_part(frame, "image", check).path for frame in value]
    return MediaPart("video", frames[0], frame_paths=tuple(frames) if len(frames) > 1 else ())


def inline_part(fields: Mapping[str, object], modality: Modality, media: RowMedia, check: KeyCheck) -> MediaPart | None:
    """The file that a part of a content list names, or the next one of the row; None where there is none."""
    check(fields, keys.VIDEO_PART if modality == "video" else keys.IMAGE_PART)
    names = (modality, f"{modality}_url", "path", "url")
    if any(name in fields for name in names):
        part = media_part(_location(fields, names, f"a part of type {modality!r}"), modality, check)
    else:
        part = next(media.take(modality), None)
    if part is None or modality == "image":
        return part
    return segments.with_settings(part, *segments.segment_settings(fields))


def with_row_settings(messages: list[Message], fields: Mapping[str, object]) -> list[Message]:
    """The turns with the segment, rate and number of frames that the row gives to its videos."""
    videos = [part for message in messages for part in message.parts if _is_video(part)]
    if segments.KEYS.isdisjoint(fields) and not any(part.frame_paths or part.frames_fps for part in videos):
        return messages
    given = iter(segments.segment_settings(fields, len(videos)))

    def shown(part: TextPart | MediaPart) -> TextPart | MediaPart:
        return segments.with_frame_rate(segments.with_settings(part, next(given))) if _is_video(part) else part

    return [replace(message, parts=tuple(map(shown, message.parts))) for message in messages]


def _is_video(part: TextPart | MediaPart) -> TypeGuard[MediaPart]:
    return isinstance(part, MediaPart) and part.modality == "video"


def read_path(value: object) -> str:
    """A path as annotated; RowError for what is no file of this machine."""
    if isinstance(value, EmbeddedAddress):
        return value
    if not isinstance(value, str) or not value or "\0" in value or not is_unicode(value):
        raise RowError(f"a media path that is {value!r:.40}: give it as a string")
    if value[:7].lower() == "file://":
        return _file_url_path(value)
    if "://" in value or value.startswith("data:"):
        raise RowError(f"media {value[:60]!r} is no local file: download it into the data root")
    return value


def is_unicode(text: str) -> bool:
    return _SURROGATE.search(text) is None


def _file_url_path(url: str) -> str:
    host, slash, path = url[7:].partition("/")
    path = unquote(slash + path)
    if host.lower() not in ("", "localhost") or not path.strip("/") or "\0" in path:
        raise RowError(f"media {url[:60]!r} names no file of this machine: write file:///FOLDER/FILE, or its path")
    return path


def _location(fields: Mapping[str, object], names: Sequence[str], what: str) -> object:
    """Value under the names, which say the same where several are given."""
    found = [fields[name] for name in names if name in fields]
    if not found:
        raise RowError(f"{what} without a file: give its 'path'")
    if any(one != found[0] for one in found):
        raise RowError(f"{what} names different files: keep one of {', '.join(n for n in names if n in fields)}")
    return found[0]


def _is_picture(value: object) -> bool:
    path = value.get("path", value.get("url")) if isinstance(value, dict) else value
    return isinstance(path, str) and _PICTURE.search(path) is not None
