"""One row of a manifest as a conversation: the formats that VideoLLaMA 3, LLaVA, transformers and OpenAI write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_apollo.errors import UserError
from lightning_apollo.structures import Modality

Role = Literal["system", "user", "assistant", "stream"]


class RowError(UserError, ValueError):
    """What is wrong with a row and how to correct it, in one line; the manifest adds the file and the place."""


@dataclass(frozen=True)
class TextPart:
    """Text exactly as the model sees it."""

    text: str


@dataclass(frozen=True)
class MediaPart:
    """An image or video file, or a part of a video between two times on the container's own clock."""

    modality: Modality
    path: str  # as annotated: relative to the data root, or absolute inside a folder that is allowed
    begin_seconds: float | None = None  # None: from the first frame
    end_seconds: float | None = None  # None: to the last


@dataclass(frozen=True)
class Message:
    """One turn. A `stream` turn holds one video, whose frames are dealt out by time among the turns that follow."""

    role: Role
    parts: tuple[TextPart | MediaPart, ...]
    time: float | None = None  # seconds on the clock of the stream; None outside streams


@dataclass(frozen=True)
class Conversation:
    """The turns of a row, in order."""

    sample_id: str  # file and row: "llava.jsonl:17"
    source: str  # name of the source in the recipe
    messages: tuple[Message, ...]

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """Images and videos in the order in which the text shows them."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, MediaPart))


_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MARKER = re.compile(r"<(image|video)>")
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON escapes can spell halves of a pair, which no tokenizer accepts
_LONGEST_SECONDS = 1e9
_PART_TYPES: dict[str, Modality] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


def parse_row(row: object) -> tuple[Message, ...]:
    """The turns of a row as JSON gives it. Keys that are null count as absent: tables leave them in every row."""
    fields = _fields(row, "the row")
    if fields.get("stream"):
        return _parse_stream(fields)
    if "conversations" in fields:
        keys = ("conversations", "from", "value")
    elif "messages" in fields:
        keys = ("messages", "role", "content")
    elif "conversation" in fields:
        raise RowError("'conversation' outside a stream: add \"stream\": true, or rename it 'messages'")
    else:
        raise RowError("no turns: give 'conversations' (from, value) or 'messages' (role, content)")
    turns_key, role_key, text_key = keys
    media = _RowMedia(fields)
    messages = [_parse_turn(turn, role_key, text_key, media) for turn in _list(fields, turns_key)]
    return _checked(media.place_the_rest(messages))


class _RowMedia:
    """The media that a row lists beside its turns, handed out one after the other as the text asks for them."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._listed: dict[Modality, list[MediaPart]] = {
            "image": [*_listed_media(fields, "image", "image"), *_listed_media(fields, "images", "image")],
            "video": [*_listed_media(fields, "video", "video"), *_listed_media(fields, "videos", "video")],
        }
        self._num_asked: dict[Modality, int] = {"image": 0, "video": 0}

    def take(self, modality: Modality) -> Iterator[MediaPart]:
        """The next image or video, or nothing where the row lists fewer: `place_the_rest` then refuses the row."""
        position = self._num_asked[modality]
        self._num_asked[modality] += 1
        yield from self._listed[modality][position : position + 1]

    def place_the_rest(self, messages: list[Message]) -> list[Message]:
        """The turns with the media that no text asks for in front of the first user turn: images, then videos."""
        rest: list[MediaPart] = []
        for modality, listed in self._listed.items():
            num_asked = self._num_asked[modality]
            if num_asked == 0:
                rest += listed
            elif num_asked != len(listed):
                raise RowError(
                    f"the text shows {num_asked} <{modality}> but the row lists {len(listed)}: "
                    "list one file for each, in order"
                )
        for position, message in enumerate(messages):
            if message.role == "user":
                messages[position] = Message("user", (*rest, *message.parts))
                break
        return messages


def _parse_turn(turn: object, role_key: str, text_key: str, media: _RowMedia) -> Message:
    fields = _fields(turn, "a turn")
    role = _role(fields, role_key)
    content = fields.get(text_key)
    if isinstance(content, list):
        return Message(role, tuple(part for item in content for part in _content_parts(item, role, media)))
    text = _string(fields, text_key, f"a turn of the {role}")
    if role == "user":
        return Message(role, tuple(_split_markers(text, media)))
    return Message(role, (TextPart(text),))


def _split_markers(text: str, media: _RowMedia) -> Iterator[TextPart | MediaPart]:
    """The text around <image> and <video> markers, without the white space that touches them, and the media."""
    for position, piece in enumerate(_MARKER.split(text)):
        if position % 2:  # the modality that the marker names
            yield from media.take("image" if piece == "image" else "video")
        elif piece.strip():
            yield TextPart(piece.strip())


def _content_parts(item: object, role: Role, media: _RowMedia) -> Iterator[TextPart | MediaPart]:
    """The part that one item of a content list stands for; its text is literal, a marker in it is only text."""
    fields = _fields(item, "a content part")
    kind = str(fields.get("type"))
    if kind == "text":
        text = _string(fields, "text", "a content part of type 'text'")
        if role != "user" or text.strip():
            yield TextPart(text.strip() if role == "user" else text)
        return
    modality = _PART_TYPES.get(kind)
    if modality is None:
        raise RowError(f"a content part of type {kind[:40]!r}: use text, image, image_url, video or video_url")
    if role != "user":
        raise RowError(f"media in a turn of the {role}: only turns of the user show media")
    location = next((fields[key] for key in (kind, "path", "url") if key in fields), None)
    if location is None:
        yield from media.take(modality)
    else:
        path = location.get("url") if isinstance(location, dict) else location
        yield MediaPart(modality, _path(path), *_span(fields, modality))


def _parse_stream(fields: Mapping[str, object]) -> tuple[Message, ...]:
    """The turns of a streaming row: the stream itself, then timed turns (VideoLLaMA 3's own format)."""
    videos = _listed_media(fields, "video", "video")
    if len(videos) != 1:
        raise RowError(f"a stream of {len(videos)} videos: give exactly one in 'video'")
    messages = [Message("stream", tuple(videos))]
    latest = 0.0
    for turn in _list(fields, "conversation"):
        turn_fields = _fields(turn, "a turn")
        role = _role(turn_fields, "role")
        text = _string(turn_fields, "content", f"a turn of the {role}")
        time = _seconds(turn_fields, "time")
        if role == "system":
            messages.append(Message(role, (TextPart(text),)))
            continue
        if time is None:
            raise RowError(f"a turn of the {role} in a stream without 'time': give its second in the video")
        if time < latest:
            raise RowError(f"a turn at {time:g} s after one at {latest:g} s: sort the turns by 'time'")
        latest = time
        messages.append(Message(role, (TextPart(text.strip() if role == "user" else text),), time))
    return _checked(messages)


def _checked(messages: list[Message]) -> tuple[Message, ...]:
    """The turns that say something, when a model can learn from them. An empty system turn is no turn."""
    spoken: list[Role] = []
    kept: list[Message] = []
    for message in messages:
        is_empty = not any(isinstance(part, MediaPart) or part.text.strip() for part in message.parts)
        if is_empty and message.role != "system":
            raise RowError(f"an empty turn of the {message.role}: write its text, or remove the turn")
        if message.role != "system":
            spoken.append(message.role)
        if not is_empty:
            kept.append(message)
    if "assistant" not in spoken:
        raise RowError("no turn of the assistant: add the answer that the model learns")
    if spoken[0] == "assistant":
        raise RowError("the assistant speaks first: put a turn of the user before it")
    return tuple(kept)


def _listed_media(fields: Mapping[str, object], key: str, modality: Modality) -> list[MediaPart]:
    value = fields.get(key, [])
    paths = value if isinstance(value, list) else [value]
    span = _span(fields, modality)
    if len(paths) > 1 and span != (None, None):
        raise RowError(f"start_time or end_time of {len(paths)} videos: give times to a row with one video only")
    return [MediaPart(modality, _path(path), *span) for path in paths]


def _path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
        raise RowError(f"a media path that is {value!r:.40}: give it as a string")
    if "://" in value or value.startswith("data:"):
        raise RowError(f"media {value[:60]!r} is no local file: download it into the data root")
    return value


def _span(fields: Mapping[str, object], modality: Modality) -> tuple[float | None, float | None]:
    """The seconds between which a video is used; images have none."""
    if modality == "image":
        return None, None
    begin, end = _seconds(fields, "start_time"), _seconds(fields, "end_time")
    if begin is not None and end is not None and end <= begin:
        raise RowError(f"end_time {end:g} is not after start_time {begin:g}: correct one of them")
    return begin, end


def _seconds(fields: Mapping[str, object], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_SECONDS:
        raise RowError(f"{key} is {value!r:.40}: give it in seconds from the start of the video, as a number")
    return float(value)


def _role(fields: Mapping[str, object], key: str) -> Role:
    role = _ROLES.get(str(fields.get(key)))
    if role is None:
        raise RowError(f"a turn with {key!r} {fields.get(key)!r:.40}: use human, gpt, user, assistant or system")
    return role


def _string(fields: Mapping[str, object], key: str, what: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise RowError(f"{what} without text: give {key!r} as a string")
    if not _is_unicode(value):
        raise RowError(f"{what} with half of a surrogate pair: correct the \\ud... escapes of {key!r}")
    return value


def _is_unicode(text: str) -> bool:
    return _SURROGATE.search(text) is None


def _list(fields: Mapping[str, object], key: str) -> list[object]:
    value = fields.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"{key!r} is no list of turns: write [turn, turn, ...]")
    return value


def _fields(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RowError(f"{what} is a {type(value).__name__}: write an object with named keys")
    return {key: item for key, item in value.items() if item is not None}
