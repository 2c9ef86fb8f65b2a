"""Rows of every format against conversations written by hand, and the exact message for each malformed row."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import MediaPart, Message, RowError, TextPart

QUESTION = {"from": "human", "value": "Q"}
ANSWER = {"from": "gpt", "value": "A"}
A = Message("assistant", (TextPart("A"),))


def _image(path: str) -> MediaPart:
    return MediaPart("image", path)


def _video(path: str, begin: float | None = None, end: float | None = None) -> MediaPart:
    return MediaPart("video", path, begin, end)


def _user(*parts: str | MediaPart) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def _llava(value: str, **media: object) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": value}, ANSWER], **media}


def _chat(content: object, **media: object) -> dict[str, object]:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}]
    return {"messages": messages, **media}


def _stream(*turns: tuple[str, str, object], **fields: object) -> dict[str, object]:
    conversation = [{"role": role, "content": text, "time": time} for role, text, time in turns]
    return {"stream": True, "video": ["v.mp4"], "conversation": conversation, **fields}


READ = {
    "text only": (_llava("Q"), _user("Q")),
    "image as a string": (_llava("<image>\nQ", image="a.jpg"), _user(_image("a.jpg"), "Q")),
    "image as a list": (_llava("<image>\nQ", image=["a.jpg"]), _user(_image("a.jpg"), "Q")),
    "video as a string": (_llava("<video>\nQ", video="a.mp4"), _user(_video("a.mp4"), "Q")),
    "several videos": (
        _llava("<video><video> Q", video=["a.mp4", "b.mp4"]),
        _user(_video("a.mp4"), _video("b.mp4"), "Q"),
    ),
    "image and video in the middle of text": (
        _llava("Is <image> in <video> ?", image="a.jpg", video="b.mp4"),
        _user("Is", _image("a.jpg"), "in", _video("b.mp4"), "?"),
    ),
    "media without a marker": (_llava("Q", image=["a.jpg", "b.jpg"]), _user(_image("a.jpg"), _image("b.jpg"), "Q")),
    "images before videos, without markers": (
        _llava("Q", video="b.mp4", image="a.jpg"),
        _user(_image("a.jpg"), _video("b.mp4"), "Q"),
    ),
    "one kind with markers, the other without": (
        _llava("Q <image>", image="a.jpg", video="b.mp4"),
        _user(_video("b.mp4"), "Q", _image("a.jpg")),
    ),
    "an image and no text": (_llava("", image="a.jpg"), _user(_image("a.jpg"))),
    "part of a video": (
        _llava("<video>Q", video="a.mp4", start_time=2, end_time=3.5),
        _user(_video("a.mp4", 2, 3.5), "Q"),
    ),
    "columns of a table": (_llava("Q", image=None, video=None, stream=None), _user("Q")),
    "messages with images": (_chat("<image>Q", images=["a.jpg"], videos=None), _user(_image("a.jpg"), "Q")),
    "messages with videos": (_chat("<video>\nQ", videos=["a.mp4"]), _user(_video("a.mp4"), "Q")),
    "a content list": (
        _chat(
            [
                {"type": "text", "text": " Is "},
                {"type": "image_url", "image_url": {"url": "a.jpg"}, "text": None},
                {"type": "video_url", "video_url": {"url": "b.mp4"}},
                {"type": "video", "video": "c.mp4", "start_time": 1.0},
                {"type": "image", "path": "d.jpg"},
                {"type": "text", "text": "`<image>` in it?"},
            ]
        ),
        _user("Is", _image("a.jpg"), _video("b.mp4"), _video("c.mp4", 1.0), _image("d.jpg"), "`<image>` in it?"),
    ),
    "a content list that takes from the row": (
        _chat([{"type": "image"}, {"type": "text", "text": "Q"}, {"type": "image"}], images=["a.jpg", "b.jpg"]),
        _user(_image("a.jpg"), "Q", _image("b.jpg")),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_user_turn_is_read(name: str) -> None:
    row, expected = READ[name]
    assert parse_row(row) == (expected, A)


def test_system_turns_stay_system_turns_and_all_turns_are_read() -> None:
    system = {"from": "system", "value": " S "}
    row = {
        "image": "a.jpg",
        "conversations": [system, QUESTION, ANSWER, {"from": "human", "value": "R\n<image>"}, ANSWER],
    }
    expected = (Message("system", (TextPart(" S "),)), _user("Q"), A, _user("R", _image("a.jpg")), A)
    assert parse_row(row) == expected


def test_an_empty_system_turn_is_no_turn() -> None:
    assert parse_row({"conversations": [{"from": "system", "value": ""}, QUESTION, ANSWER]}) == (_user("Q"), A)


def test_a_marker_in_the_code_of_an_answer_is_text() -> None:
    text = "Write `<image>` there:\n```html\n<video>\n</video>\n```\nand <b>bold</b> a[i]. "
    answer = {"from": "gpt", "value": text}
    assert parse_row({"conversations": [QUESTION, answer]})[1] == Message("assistant", (TextPart(text),))


def test_answers_before_the_first_question_are_dropped_as_in_the_released_code() -> None:
    hello = {"from": "gpt", "value": "Hello!"}
    system = {"from": "system", "value": "S"}
    assert parse_row({"conversations": [hello, QUESTION, ANSWER]}) == (_user("Q"), A)
    expected = (Message("system", (TextPart("S"),)), _user(_image("a.jpg"), "Q"), A)
    assert parse_row({"image": "a.jpg", "conversations": [system, hello, hello, QUESTION, ANSWER]}) == expected


def test_an_answer_may_be_a_content_list_of_text() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        ]
    }
    assert parse_row(row) == (_user("Q"), A)


def test_a_stream_is_a_video_and_timed_turns() -> None:
    row = _stream(("system", "S", None), ("user", " Q ", 1), ("assistant", "A", 2.5), start_time=0, end_time=4)
    assert parse_row(row) == (
        Message("stream", (_video("v.mp4", 0, 4),)),
        Message("system", (TextPart("S"),)),
        Message("user", (TextPart("Q"),), 1.0),
        Message("assistant", (TextPart("A"),), 2.5),
    )


MALFORMED: list[tuple[object, str]] = [
    ([], r"row .*list.*keys"),
    ({"image": "a.jpg"}, r"'conversations' \(from, value\).*'messages' \(role, content\)"),
    ({"conversation": []}, r"^'conversation' .*\"stream\": true.*'messages'"),
    ({"conversations": "Q"}, r"^'conversations' .*list"),
    ({"messages": []}, r"^'messages' .*list"),
    ({"conversations": ["Q"]}, r"turn .*str.*keys"),
    ({"conversations": [{"value": "Q"}]}, r"'from' None: .*human, gpt, user, assistant"),
    (
        {"messages": [{"role": ["user"], "content": "Q"}]},
        r"'role' \['user'\]: .*human, gpt, user, assistant",
    ),
    ({"conversations": [{"from": "human"}]}, r"user.*text.*'value'"),
    (_chat(7), r"user.*text.*'content'"),
    (_llava("  "), r"empty turn.*user"),
    (
        {"conversations": [QUESTION, {"from": "gpt", "value": ""}]},
        r"empty turn.*assistant",
    ),
    ({"conversations": [QUESTION]}, r"assistant.*answer"),
    ({"conversations": [ANSWER, QUESTION]}, r"assistant.*answer"),
    ({"conversations": [ANSWER]}, r"assistant.*first.*user"),
    (
        _llava("<image><image>Q", image="a.jpg"),
        r"\b2 <image> .*\b1\b",
    ),
    (_llava("<video>Q"), r"\b1 <video> .*\b0\b"),
    (
        _llava("<image>Q", image=["a.jpg", "b.jpg"]),
        r"\b1 <image> .*\b2\b",
    ),
    (
        _chat([{"type": "image"}, {"type": "text", "text": "Q"}]),
        r"\b1 <image> .*\b0\b",
    ),
    (_llava("Q", image=7), r"media path .*\b7\b"),
    (_llava("Q", image=[""]), r"media path .*''"),
    (_llava("Q", image="a\0b"), r"media path .*'a\\x00b'"),
    (
        _llava("Q", image="https://example.org/a.jpg"),
        r"media 'https://example\.org/a\.jpg' ",
    ),
    (
        _llava("Q", image="data:image/png;base64,AA"),
        "media 'data:image/png;base64,AA' ",
    ),
    (
        _chat([{"type": "audio", "audio": "a.wav"}]),
        r"'audio': .*text, image, image_url, video or video_url",
    ),
    (_chat([{"type": "text"}]), r"part .*'text' .*'text' "),
    (_chat(["Q"]), r"part .*str.*keys"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "image", "image": "a.jpg"}]}]},
        r"media.*assistant.*user",
    ),
    (_llava("Q \ud800"), r"user.*surrogate.*'value'"),
    (
        _llava("Q", video="a.mp4", start_time="0:10"),
        r"^start_time .*'0:10': .*seconds",
    ),
    (
        _llava("Q", video="a.mp4", end_time=float("nan")),
        r"^end_time .*\bnan: .*seconds",
    ),
    (
        _llava("Q", video="a.mp4", end_time=10**400),
        rf"^end_time .*\b{10**39}: .*seconds",
    ),
    (_llava("Q", video="a.mp4", start_time=5, end_time=5), r"^end_time 5 .*start_time 5\b"),
    (
        _llava("Q", video=["a.mp4", "b.mp4"], end_time=5),
        r"^end_time .*\b2 videos",
    ),
    (_stream(("user", "Q", 0), video=[]), r"stream .*\b0 videos.*'video'"),
    (_stream(), r"^'conversation' .*list"),
    (_stream(("user", "Q", None)), r"user.*stream.*'time'"),
    (
        _stream(("user", "Q", -1)),
        r"^time .*-1: .*seconds",
    ),
    (
        _stream(("user", "Q", 3.0), ("assistant", "A", 2.0)),
        r"\b2 s\b.*\b3 s\b.*'time'",
    ),
]


@pytest.mark.parametrize(("row", "message"), MALFORMED)
def test_a_malformed_row_says_what_is_wrong_and_the_fix(row: object, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_row(row)


_WORDS = [
    "conversations",
    "messages",
    "conversation",
    "stream",
    "from",
    "value",
    "role",
    "content",
    "type",
    "text",
    "image",
]
_WORDS += [
    "images",
    "video",
    "videos",
    "human",
    "gpt",
    "user",
    "assistant",
    "system",
    "<image>",
    "a.jpg",
    "time",
    "path",
    "url",
]
_LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(_WORDS) | st.text(max_size=5)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5),
    max_leaves=30,
)


def _places(value: object) -> list[tuple[dict | list, str | int]]:
    """Every container and key below a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    here = [(value, key) for key in keys]
    return here + [place for container, key in here for place in _places(container[key])]


def _refusal(row: object) -> str:
    try:
        messages = parse_row(row)
    except RowError as error:
        return str(error)
    assert any(message.role == "assistant" for message in messages)
    return ""


@given(_JSON, st.data())
@settings(derandomize=True, deadline=None)
def test_whatever_json_holds_a_row_is_read_or_refused_in_one_line(value: object, data: st.DataObject) -> None:
    row = copy.deepcopy(data.draw(st.sampled_from([row for row, _ in READ.values()])))
    container, key = data.draw(st.sampled_from(_places(row)))
    container[key] = value
    for refusal in (_refusal(row), _refusal(value)):
        assert "\n" not in refusal
        assert len(refusal) < 200
