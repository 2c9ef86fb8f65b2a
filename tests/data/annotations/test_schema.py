"""Published keys and markers of rows: read, passed or refused as written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_apollo.data.annotations.keys import IGNORE
from lightning_apollo.data.annotations.manifest import ManifestError, read_manifest
from lightning_apollo.data.annotations.rows import parse_row, read_row
from lightning_apollo.data.conversation import MediaPart, Message, RowError, TextPart
from tests.small_data import turns, write_rows

QUESTION, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
Q, A = Message("user", (TextPart("Q"),)), Message("assistant", (TextPart("A"),))


def _row(question: str = "Q", answer: str = "A", **fields: object) -> dict[str, object]:
    return {"conversations": turns(question, answer), **fields}


def _chat(*parts: object, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "Q"}]}, ANSWER], **fields}


PASSES = {
    "LLaVA": {"id": "000000033471", "image": "a.jpg", "model": "gpt-4", "width": 640, "height": 480},
    "LLaVA-Video": {"id": "a-0", "data_source": "academic", "video": "a.mp4", "duration": 12.5},
    "video names beside the file": {
        "video": "a.mp4",
        "video_id": "v_1",
        "youtube_id": "x",
        "video_url": "https://y/a.mp4",
    },
    "provenance": {
        "source": "x",
        "dataset_name": "y",
        "license": "CC0",
        "url": "https://x/page",
        "created_at": "2024-01-01",
    },
    "columns of a table": {
        "tools": [],
        "audios": None,
        "system": "",
        "objects": {},
        "rejected_response": None,
        "id": 3,
    },
    "an object of metadata": {"metadata": {"fps": 30, "tools": ["x"]}, "extra_info": {"start": 3}},
    "quality": {
        "score": 0.3,
        "clip_score": 0.2,
        "quality": "high",
        "split": "train",
        "category": "sport",
        "lang": "en",
    },
    "WebDataset": {"__key__": "0001", "__url__": "x.tar"},
}


@pytest.mark.parametrize("name", PASSES)
def test_metadata_passes(name: str) -> None:
    messages, ignored = read_row(_row(**PASSES[name]))
    assert messages[-1] == A
    assert ignored == ()


REFUSED: list[tuple[dict[str, object], str, str]] = [  # row, key, part of the fix
    (_row(tools='[{"name": "zoom"}]'), "tools", "text"),
    (_row(functions=[{}]), "functions", "text"),
    (_row(audios=["a.wav"]), "audios", "sound"),
    (_row(audio="a.wav"), "audio", "sound"),
    (_row(objects={"bbox": [[1, 2, 3, 4]]}), "objects", "text"),
    (_row(bbox=[1, 2, 3, 4]), "bbox", "text"),
    (_row(image="a.jpg", masks=["m.png"]), "masks", "text"),
    (_row(image="a.jpg", depth="d.png"), "depth", "'image' or 'video'"),
    (_row(video_path="a.mp4"), "video_path", "'image' or 'video'"),
    (_row(image_file="a.jpg"), "image_file", "'image' or 'video'"),
    (_row(frames=["a.jpg"]), "frames", "'image' or 'video'"),
    (_row(video="a.mp4", videos_2=["b.mp4"]), "videos_2", "'image' or 'video'"),
    (_row(image="a.jpg", imagePath="b.jpg"), "imagePath", "'image' or 'video'"),
    (_row(image="a.jpg", image2="b.jpg"), "image2", "'image' or 'video'"),
    (_row(image="a.jpg", image_url="b.jpg"), "image_url", "'image' or 'video'"),
    (_row(video_id="v_abc"), "video_id", "'image' or 'video'"),
    (_row(url="https://example.org/a.mp4"), "url", "'image' or 'video'"),
    (_row(video="a.mp4", nframes=8), "nframes", "'fps' or 'max_frames'"),
    (_row(video="a.mp4", num_frames=8), "num_frames", "'fps' or 'max_frames'"),
    (_row(image="a.jpg", max_pixels=100), "max_pixels", "data.budget"),
    (_row(video="a.mp4", timestamps=[[1, 2]]), "timestamps", "'start_time' and 'end_time'"),
    (_row(video="a.mp4", start_frame=3), "start_frame", "seconds"),
    (_row(rejected="B"), "rejected", "turn"),
    (_row(response="B"), "response", "turn"),
    ({**_row(), "answer": "B", "question": "C"}, "answer", "turn"),
    (_row(caption="B"), "caption", "turn"),
    (_row(weight=0.5), "weight", '"loss"'),
    (_row(train_on_input=True), "train_on_input", '"loss"'),
    (_row(messages=[QUESTION, ANSWER]), "messages", "turns"),
    (_row(vidoe="a.mp4"), "vidoe", "'video'"),
    (_row(video="a.mp4", strat_time=3), "strat_time", "'start_time'"),
    (_row(Image="a.jpg"), "Image", "'image'"),
    (_row(frobnicate=1), "frobnicate", "remove"),
    ({"messages": [QUESTION, {**ANSWER, "tool_calls": [{}]}]}, "tool_calls", "text"),
    ({"messages": [{**QUESTION, "images": ["a.jpg"]}, ANSWER]}, "images", "row"),
    ({"messages": [{**QUESTION, "start": 3}, ANSWER]}, "start", "video"),
    ({"messages": [{**QUESTION, "time": 3}, ANSWER]}, "time", '"stream": true'),
    ({"messages": [QUESTION, {**ANSWER, "reasoning_content": "x"}]}, "reasoning_content", "text"),
    (_chat({"type": "image", "image": "a.jpg", "min_pixels": 9}), "min_pixels", "data.budget"),
    (_chat({"type": "image_url", "image_url": {"url": "a.jpg", "detail": "low"}}), "detail", "data.budget"),
    (_chat({"type": "video", "video": "a.mp4", "nframes": 8}), "nframes", "'max_frames'"),
    (_chat({"type": "video", "video": {"path": "a.mp4", "fpps": 8}}), "fpps", "'fps'"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "key", "fix"), REFUSED, ids=[key for _, key, _ in REFUSED])
def test_what_can_change_a_sample_is_refused_with_key_and_fix(row: dict[str, object], key: str, fix: str) -> None:
    with pytest.raises(RowError) as refusal:
        parse_row(row)
    message = str(refusal.value)
    assert message.startswith(f"{key!r}")
    assert fix in message
    assert "data.unknown_keys=ignore" in message
    assert "\n" not in message
    assert len(message) < 200
    messages, ignored = read_row(row, IGNORE)
    assert messages[-1].role == "assistant"
    assert ignored[0].split(" in ")[0] == key


def test_a_manifest_says_file_and_line_and_passes_over_keys_where_the_recipe_does(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [_row(), _row(tools="x", mood="y")])
    with pytest.raises(ManifestError, match=r"rows\.jsonl.*2: 'tools'"):
        read_manifest(path, "s", tmp_path)[1]
    lenient = read_manifest(path, "s", tmp_path, unknown_keys=IGNORE)
    assert lenient[0].ignored_keys == ()
    assert lenient[1].ignored_keys == ("tools", "mood")
    assert lenient.digest() != read_manifest(path, "s", tmp_path).digest()


FOREIGN = [
    "<Image>", "<IMAGE>", "<image1>", "<image_1>", "<image-0>", "<Video>", "<video1>", "<|image|>", "<|image_1|>",
    "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<image_placeholder>", "<ImageHere>", "<VideoHere>",
    "[IMG]", "<audio>", "<bbox>", "<ref-object>", "<speech>", "<IMG_CONTEXT>", "<start_of_image>",
    "<image_soft_token>", "<im_start>", "<|media_pad|>", "<img>a.jpg</img>", "<image>a.jpg</image>", "[IMAGE]",
]  # fmt: skip


@pytest.mark.parametrize("marker", FOREIGN)
def test_markers_of_other_tools_are_refused_in_every_turn(marker: str) -> None:
    rows = [
        _row(f"{marker}\nQ", image="a.jpg"),
        _row(answer=f"It is {marker}."),
        _row(system=f"Look at {marker}"),
        _chat({"type": "text", "text": f"{marker} Q"}),
    ]
    for row in rows:
        with pytest.raises(RowError, match="`backticks`"):
            parse_row(row)
        with pytest.raises(RowError, match="`backticks`"):  # an unknown key is a choice, a wrong marker is not
            read_row(row, IGNORE)


def test_a_marker_of_our_own_is_refused_where_no_media_are_shown() -> None:
    for row in (_row(answer="See <image>."), _row(system="<video>"), _chat({"type": "text", "text": "<image>"})):
        with pytest.raises(RowError, match=r"(turn|row|part).*`backticks`"):
            parse_row(row)


LOOSE = [
    "<img>",
    "<vid>",
    "<image/>",
    "<image >",
    "< Image >",
    "<images>",
    "<picture>",
    "<frame>",
    "[image]",
    "{image}",
]


@pytest.mark.parametrize("marker", LOOSE)
def test_words_of_html_are_markers_beside_media_alone(marker: str) -> None:
    with pytest.raises(RowError, match=r"<image>.*<video>.*`backticks`"):
        parse_row(_row(f"{marker}\nQ", image="a.jpg"))
    assert parse_row(_row(f"{marker}\nQ")) == (Message("user", (TextPart(f"{marker}\nQ"),)), A)


TEXTS = [
    "<b>bold</b> <img src='a.png'> <box>(1,2)</box> <p>",
    "if a<b and b>c: x[image] = y[i]",
    "Use `<Image>` and ```jsx\n<Image>\n<audio>```",
    "the [image](a.png) of <s> and </s>, <|im_end|> <think>",
    "<video controls> <svg><image href='a'/></svg>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_only_looks_like_a_marker_is_text(text: str) -> None:
    assert parse_row(_row(text, text)) == (Message("user", (TextPart(text),)), Message("assistant", (TextPart(text),)))


@pytest.mark.parametrize("key", ["system", "system_prompt", "system_message"])
def test_the_system_text_of_a_row_is_a_turn(key: str) -> None:
    system = Message("system", (TextPart("Be brief."),))
    assert parse_row(_row(**{key: "Be brief."})) == (system, Q, A)
    said = [{"from": "system", "value": "Be brief."}, *turns("Q", "A")]
    assert parse_row({"conversations": said, key: "Be brief."}) == (system, Q, A)
    stream = {"stream": True, "video": "v.mp4", "conversation": [{**QUESTION, "time": 0}, {**ANSWER, "time": 1}]}
    assert [message.role for message in parse_row({**stream, key: "S"})] == ["stream", "system", "user", "assistant"]
    with pytest.raises(RowError, match="'system'"):
        parse_row({"conversations": said, key: "Sing."})
    with pytest.raises(RowError, match=rf"text.*'{key}'"):
        parse_row({**_row(), key: ["Sing."]})


@pytest.mark.parametrize("key", ["loss", "train", "training", "trainable", "weight"])
@pytest.mark.parametrize(("off", "on"), [(False, True), (0, 1), (0.0, 1.0)])
def test_a_turn_says_whether_it_is_learnt(key: str, off: object, on: object) -> None:
    row = {"messages": [{**QUESTION, key: off}, {**ANSWER, key: off}, QUESTION, {**ANSWER, key: on}, QUESTION, ANSWER]}
    assert [message.is_learnt for message in parse_row(row)[1::2]] == [False, True, True]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({**ANSWER, "weight": 0.5}, r"^weight\b.*\b0\.5\b"),
        ({**ANSWER, "loss": "false"}, r"^loss .*'false'"),
        ({**ANSWER, "loss": True, "train": False}, r"^loss and train "),
        ({**ANSWER, "loss": False}, r"answer.*loss"),
        ({**ANSWER, "mask": True}, r"^'mask' "),
    ],
)
def test_a_loss_switch_that_cannot_be_obeyed_is_refused(turn: dict[str, object], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        parse_row({"messages": [QUESTION, turn]})
    with pytest.raises(RowError, match=r"loss.*user"):
        parse_row({"messages": [{**QUESTION, "loss": True}, ANSWER]})


def test_roles_in_other_spellings_are_read_and_those_of_tools_refused() -> None:
    assert parse_row({"messages": [{"role": "Human", "content": "Q"}, {"role": "model", "content": "A"}]}) == (Q, A)
    assert parse_row({"conversations": [QUESTION, ANSWER]}) == (Q, A)  # MiniCPM-V's rows
    for role in ("tool", "function_call", "observation", "function"):
        with pytest.raises(RowError, match=rf"'role' '{role}'.*human"):
            parse_row({"messages": [QUESTION, {"role": role, "content": "x"}, ANSWER]})


def test_the_parts_of_a_content_list_may_leave_out_their_type() -> None:
    content = [{"image": "a.jpg"}, {"text": "Q"}]
    assert parse_row({"messages": [{"role": "user", "content": content}, ANSWER]}) == (
        Message("user", (MediaPart("image", "a.jpg"), TextPart("Q"))),
        A,
    )
