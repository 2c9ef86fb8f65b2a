"""Parse one row of a manifest into a conversation. The formats are those of VideoLLaMA 3, LLaVA, transformers and OpenAI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightning_apollo.data.annotations import keys
from lightning_apollo.data.annotations.formats import normalise
from lightning_apollo.data.annotations.keys import KeyCheck
from lightning_apollo.data.annotations.markers import refuse_any, split_markers
from lightning_apollo.data.annotations.media_parts import (
    RowMedia,
    inline_part,
    is_unicode,
    listed_media,
    with_row_settings,
)
from lightning_apollo.data.annotations.segments import seconds
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, Role, RowError, TextPart
from lightning_apollo.structures import Modality

__all__ = ["Conversation", "MediaPart", "Message", "Role", "RowError", "TextPart", "parse_row", "read_row"]

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_PART_TYPES: dict[str, Modality] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_LOSS_KEYS = frozenset(keys.LOSS_KEYS)


def parse_row(row: object) -> tuple[Message, ...]:
    """The turns of a row as JSON gives it. Keys that are null count as absent: tables leave them in every row."""
    return read_row(row)[0]


def read_row(row: object, unknown_keys: str = keys.REFUSE) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The turns of a row, and its keys that are passed over where `unknown_keys` is "ignore"."""
    fields = normalise(_fields(row, "the row"))
    check = KeyCheck(unknown_keys)
    messages = _parse_stream(fields, check) if _is_stream(fields) else _parse_turns(fields, check)
    messages = with_row_settings(_with_system(messages, fields), fields)
    check.end(messages)
    return _checked(messages), tuple(check.ignored)


def _parse_turns(fields: Mapping[str, object], check: KeyCheck) -> list[Message]:
    if "conversations" in fields:
        turns_key, schema = "conversations", keys.CONVERSATIONS
    elif "messages" in fields:
        turns_key, schema = "messages", keys.MESSAGES
    elif "conversation" in fields:
        raise RowError("'conversation' outside a stream: add \"stream\": true, or rename it 'messages'")
    else:
        raise RowError("no turns: give 'conversations' (from, value) or 'messages' (role, content)")
    check(fields, schema)
    media = RowMedia(fields, check)
    messages = [_parse_turn(turn, turns_key, media, check) for turn in _list(fields, turns_key)]
    return media.prepend_unreferenced_media(_without_opening(messages))


def _parse_turn(turn: object, turns_key: str, media: RowMedia, check: KeyCheck) -> Message:
    fields = _fields(turn, "a turn")
    is_chat = "role" in fields or (turns_key == "messages" and "from" not in fields)
    role_key, text_key = ("role", "content") if is_chat else ("from", "value")
    role = _role(fields, role_key)
    check(fields, keys.CHAT_TURN if is_chat else keys.TURN)
    is_learnt = _is_learnt(fields, role)
    content = fields.get(text_key)
    if isinstance(content, list):
        parts = tuple(part for item in content for part in _content_parts(item, role, media, check))
        return Message(role, parts, is_learnt=is_learnt)
    text = _string(fields, text_key, f"a turn of the {role}")
    if role == "user":
        return Message(role, tuple(_marked_parts(text, media)))
    refuse_any(text, f"a turn of the {role}")
    return Message(role, (TextPart(text),), is_learnt=is_learnt)


def _marked_parts(text: str, media: RowMedia) -> Iterator[TextPart | MediaPart]:
    """The text around <image> and <video> markers, without the white space that touches them, and the media."""
    for position, piece in enumerate(split_markers(text, media.is_listed)):
        if position % 2:  # the modality that the marker names
            yield from media.marked("image" if piece == "image" else "video")
        elif piece.strip():
            yield TextPart(piece.strip())


def _content_parts(item: object, role: Role, media: RowMedia, check: KeyCheck) -> Iterator[TextPart | MediaPart]:
    """The part that one item of a content list stands for."""
    fields = _fields(item, "a content part")
    named = [key for key in ("text", *_PART_TYPES) if key in fields]
    kind = str(fields.get("type", named[0] if len(named) == 1 else None))
    if kind == "text":
        check(fields, keys.TEXT_PART)
        text = _string(fields, "text", "a content part of type 'text'")
        refuse_any(text, "a part of type 'text'", "give media a part of their own")
        if role != "user" or text.strip():
            yield TextPart(text.strip() if role == "user" else text)
        return
    modality = _PART_TYPES.get(kind)
    if modality is None:
        raise RowError(f"a content part of type {kind[:40]!r}: use text, image, image_url, video or video_url")
    if role != "user":
        raise RowError(f"media in a turn of the {role}: only turns of the user show media")
    part = inline_part(fields, modality, media, check)
    if part is not None:
        yield part


def _parse_stream(fields: Mapping[str, object], check: KeyCheck) -> list[Message]:
    """The turns of a streaming row: the stream itself, then timed turns (VideoLLaMA 3's own format)."""
    check(fields, keys.STREAM)
    videos = listed_media(fields, "video", check)
    if len(videos) != 1:
        raise RowError(f"a stream of {len(videos)} videos: give exactly one in 'video'")
    messages = [Message("stream", tuple(videos))]
    latest = 0.0
    for turn in _list(fields, "conversation"):
        turn_fields = _fields(turn, "a turn")
        role = _role(turn_fields, "role")
        check(turn_fields, keys.STREAM_TURN)
        text = _string(turn_fields, "content", f"a turn of the {role}")
        refuse_any(text, f"a turn of the {role}", "a stream shows its video alone: remove it")
        time = seconds("time", turn_fields["time"]) if "time" in turn_fields else None
        if role == "system":
            messages.append(Message(role, (TextPart(text),)))
            continue
        if time is None:
            raise RowError(f"a turn of the {role} in a stream without 'time': give its second in the video")
        if time < latest:
            raise RowError(f"a turn at {time:g} s after one at {latest:g} s: sort the turns by 'time'")
        latest = time
        parts = (TextPart(text.strip() if role == "user" else text),)
        messages.append(Message(role, parts, time, _is_learnt(turn_fields, role)))
    return messages


def _is_stream(fields: Mapping[str, object]) -> bool:
    value = fields.get("stream", False)
    if value not in (True, False):
        raise RowError(f"stream is {value!r:.40}: write true or false")
    return bool(value)


def _is_learnt(fields: Mapping[str, object], role: Role) -> bool:
    """The switch of a turn, in every spelling; answers are learnt where there is none."""
    if _LOSS_KEYS.isdisjoint(fields):
        return True
    said = {key: fields[key] for key in keys.LOSS_KEYS if key in fields}
    for key, value in said.items():
        if value not in (True, False):
            raise RowError(f"{key} is {value!r:.40} in a turn: write true to learn it, or false")
    if len({bool(value) for value in said.values()}) > 1:
        raise RowError(f"{' and '.join(said)} of a turn disagree: keep one of them")
    is_learnt = all(said.values())
    if is_learnt and role != "assistant":
        raise RowError(f"{next(iter(said))} is on in a turn of the {role}: only answers are learnt, remove it")
    return is_learnt


def _with_system(messages: list[Message], fields: Mapping[str, object]) -> list[Message]:
    """The turns with the row's own system text in front; it may say again what a turn of the system says."""
    texts = [_string(fields, key, "the row") for key in keys.SYSTEM_KEYS if key in fields]
    texts = [text for text in texts if text.strip()]
    if not texts:
        return messages
    refuse_any(texts[0], "the row's system text")
    system = Message("system", (TextPart(texts[0]),))
    given = [message for message in messages if message.role == "system"]
    if any(text != texts[0] for text in texts) or any(one != system for one in given):
        raise RowError("the row gives different system texts: keep 'system', or the turn of the system")
    if given:
        return messages
    num_before = int(messages[0].role == "stream")
    return [*messages[:num_before], system, *messages[num_before:]]


def _without_opening(messages: list[Message]) -> list[Message]:
    """The turns without answers that nobody has asked for yet, which the released code drops as well."""
    if messages[0].role == "user":
        return messages
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else 0
    return [message for place, message in enumerate(messages) if place >= first or message.role != "assistant"]


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
    if not any(message.is_learnt and message.role == "assistant" for message in kept):
        raise RowError("no answer is learnt: switch the loss of one on, or remove the row")
    return tuple(kept)


def _role(fields: Mapping[str, object], key: str) -> Role:
    role = _ROLES.get(str(fields.get(key)).lower())
    if role is None:
        raise RowError(f"a turn with {key!r} {fields.get(key)!r:.40}: use human, gpt, user, assistant or system")
    return role


def _string(fields: Mapping[str, object], key: str, what: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise RowError(f"{what} without text: give {key!r} as a string")
    if not is_unicode(value):
        raise RowError(f"{what} with half of a surrogate pair: correct the \\ud... escapes of {key!r}")
    return value


def _list(fields: Mapping[str, object], key: str) -> list[object]:
    value = fields.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"{key!r} is no list of turns: write [turn, turn, ...]")
    return value


def _fields(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RowError(f"{what} is a {type(value).__name__}: write an object with named keys")
    return {key: item for key, item in value.items() if item is not None}
