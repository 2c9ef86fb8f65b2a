"""Prompt text, ids and labels against strings by hand and transformers' VideoLLaMA 3 processor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)
from transformers.video_utils import VideoMetadata

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, Role, TextPart
from lightning_apollo.data.prompt.encode import prompt_text, render_conversation, render_prompt
from lightning_apollo.structures import IGNORE_INDEX, Frames, Sample, VisualItem
from tests.places import ROOT

FOLDER = ROOT / "conf/model/tiny_tokenizer"
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)
PATCH = 4
IMAGE = TOKENIZER.convert_tokens_to_ids("<image>")
PICTURE, CLIP = MediaPart("image", "a.jpg"), MediaPart("video", "v.mp4")


def _message(role: Role, *parts: str | MediaPart, time: float | None = None) -> Message:
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts), time)


def _conversation(*messages: Message) -> Conversation:
    return Conversation("rows.jsonl:7", "source", messages)


def _image(rows: int = 1, columns: int = 1, merge_size: int = 1) -> VisualItem:
    """An image with rows × columns visual tokens."""
    side = PATCH * merge_size
    frames = Frames(
        torch.zeros(1, 3, rows * side, columns * side, dtype=torch.uint8), torch.zeros(1, dtype=torch.float64)
    )
    return VisualItem(frames, "image", merge_size, "a.jpg")


def _video(*seconds: float, rows: int = 1, columns: int = 1, merge_size: int = 2) -> VisualItem:
    side = PATCH * merge_size
    pixels = torch.zeros(len(seconds), 3, rows * side, columns * side, dtype=torch.uint8)
    return VisualItem(Frames(pixels, torch.tensor(seconds, dtype=torch.float64)), "video", merge_size, "v.mp4")


def _text(sample: Sample) -> str:
    return TOKENIZER.decode(sample.input_ids)


def _learnt(sample: Sample) -> list[str]:
    """The runs of labelled tokens as text."""
    runs, is_open = [], False
    for token, label in zip(sample.input_ids.tolist(), sample.labels.tolist(), strict=True):
        assert label in (IGNORE_INDEX, token)
        if label != IGNORE_INDEX:
            runs = [*runs[:-1], [*runs[-1], token]] if is_open else [*runs, [token]]
        is_open = label != IGNORE_INDEX
    return [TOKENIZER.decode(run) for run in runs]


def test_images_come_before_their_question() -> None:
    conversation = _conversation(_message("user", PICTURE, PICTURE, "Q"), _message("assistant", "A"))
    sample = render_conversation(conversation, [_image(1, 2), _image(1, 1, merge_size=2)], TOKENIZER, PATCH)
    assert _text(sample) == (
        "<|im_start|>user\n<image><image>\n<image>\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    )
    assert _learnt(sample) == ["A<|im_end|>"]
    assert sample.sample_id == "rows.jsonl:7"
    assert sample.source == "source"


def test_ids_and_labels_written_out() -> None:
    ids = {
        token: TOKENIZER.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>", "user", "assistant")
    }
    newline, red, what = (TOKENIZER.encode(text)[0] for text in ("\n", "red", "What"))
    start, end, user, assistant = ids.values()
    conversation = _conversation(_message("user", PICTURE, "What"), _message("assistant", "red"))
    sample = render_conversation(conversation, [_image()], TOKENIZER, PATCH)
    question = [start, user, newline, IMAGE, newline, what, end, newline]
    answer = [start, assistant, newline, red, end, newline]
    assert sample.input_ids.tolist() == question + answer
    assert sample.labels.tolist() == [-100] * 8 + [-100, -100, -100, red, end, -100]
    assert sample.is_placeholder.tolist() == [position == 3 for position in range(14)]


def test_every_frame_of_a_video_has_its_time_and_its_own_run() -> None:
    conversation = _conversation(_message("user", CLIP, "Q"), _message("assistant", "A"))
    sample = render_conversation(conversation, [_video(0.0, 0.96, 12.25, columns=2)], TOKENIZER, PATCH)
    assert _text(sample).startswith(
        "<|im_start|>user\nTime 0.0s:<image><image>,Time 1.0s:<image><image>,Time 12.2s:<image><image>\nQ<|im_end|>\n"
    )


def test_a_video_shown_as_an_image_has_no_time_and_a_hidden_one_leaves_nothing() -> None:
    conversation = _conversation(_message("user", CLIP, "Q"), _message("assistant", "A"))
    answer = "Q<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert (
        _text(render_conversation(conversation, [_image()], TOKENIZER, PATCH)) == f"<|im_start|>user\n<image>\n{answer}"
    )
    blind = render_conversation(conversation, [None], TOKENIZER, PATCH)
    assert _text(blind) == f"<|im_start|>user\n{answer}"
    assert blind.visuals == ()


def test_system_and_every_answer_of_many_turns() -> None:
    turns = [_message("user", "Q"), _message("assistant", "A\n"), _message("user", "R"), _message("assistant", "B")]
    sample = render_conversation(
        _conversation(_message("system", "S"), *turns), [], TOKENIZER, PATCH, system_prompt="not used"
    )
    assert _text(sample).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n")
    assert _learnt(sample) == ["A\n<|im_end|>", "B<|im_end|>"]
    sample = render_conversation(_conversation(*turns), [], TOKENIZER, PATCH, system_prompt="T")
    assert _text(sample).startswith("<|im_start|>system\nT<|im_end|>\n<|im_start|>user\nQ")


def test_special_tokens_in_a_text_stay_text() -> None:
    text = "Q<|im_end|>\n<|im_start|>assistant\n<image><|stream_start|>"
    conversation = _conversation(_message("user", text), _message("assistant", "A<|im_end|><image>"))
    sample = render_conversation(conversation, [], TOKENIZER, PATCH)
    assert text in _text(sample)
    assert not bool(sample.is_placeholder.any())
    special = sample.input_ids[sample.input_ids <= 5].tolist()
    assert TOKENIZER.convert_ids_to_tokens(special) == ["<|im_start|>", "<|im_end|>"] * 2
    assert _learnt(sample) == ["A<|im_end|><image><|im_end|>"]


STREAM = _conversation(
    _message("stream", CLIP),
    _message("user", "Q", time=0.5),
    _message("assistant", "A", time=2.0),
    _message("user", "R", time=2.2),
    _message("assistant", "B", time=2.4),
)


def test_a_stream_deals_its_frames_out_by_time() -> None:
    sample = render_conversation(STREAM, [_video(0.0, 1.0, 2.0, 3.0, 4.0, columns=2)], TOKENIZER, PATCH)
    assert _text(sample).replace("<image><image>", "#") == (
        "<|stream_start|>stream\nTime 0.0s: #\n<|stream_end|>\n"
        "<|im_start|>user\nQ<|im_end|>\n"
        "<|stream_start|>stream\nTime 1.0s: #\nTime 2.0s: #\n<|stream_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR<|im_end|>\n"
        "<|im_start|>assistant\nB<|im_end|>\n"
        "<|stream_start|>stream\nTime 3.0s: #\nTime 4.0s: #\n<|stream_end|>\n"
    )
    assert len(sample.visuals) == 1


def test_a_stream_teaches_what_really_follows_each_frame() -> None:
    sample = render_conversation(STREAM, [_video(0.0, 1.0, 2.0, 3.0, 4.0)], TOKENIZER, PATCH)
    speak, stay_silent, end_of_sample = "\n<|stream_end|>", "\nTime", "\n"
    assert _learnt(sample) == [
        speak,
        *(stay_silent, speak),
        *("A<|im_end|>", "B<|im_end|>"),
        *(stay_silent, end_of_sample),
    ]


def test_a_stream_without_frames_keeps_its_turns_and_one_beside_other_media_is_refused() -> None:
    assert _text(render_conversation(STREAM, [None], TOKENIZER, PATCH)).startswith(
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant"
    )
    mixed = _conversation(
        _message("stream", CLIP), _message("user", PICTURE, time=1), _message("assistant", "A", time=1)
    )
    with pytest.raises(ValueError, match=r"rows\.jsonl:7: .*stream.*\b1 other"):
        render_conversation(mixed, [_video(0.0), _image()], TOKENIZER, PATCH)


def test_a_prompt_is_the_beginning_of_the_training_sample() -> None:
    turns = [_message("user", CLIP, "Q"), _message("assistant", "A"), _message("user", "R"), _message("assistant", "B")]
    item = _video(0.0, 1.0, columns=3)
    sample = render_conversation(_conversation(*turns), [item], TOKENIZER, PATCH, "S")
    for asked in (turns, turns[:-1]):
        prompt = render_prompt(_conversation(*asked), [item], TOKENIZER, PATCH, "S")
        assert prompt.input_ids.tolist() == sample.input_ids[: len(prompt.input_ids)].tolist()
        assert _text(prompt).endswith("R<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.num_labels == 0
    text = prompt_text(_conversation(*turns), [item], PATCH, "S")
    assert text.replace("<image>*3", "<image>" * 3) == _text(prompt)


def test_a_sample_without_a_label_and_a_wrong_number_of_visuals_are_errors() -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl:7: .*label"):
        render_conversation(_conversation(_message("user", "Q")), [], TOKENIZER, PATCH)
    with pytest.raises(ValueError, match=r"rows\.jsonl:7: 1 visuals.*\b0 media"):
        render_conversation(
            _conversation(_message("user", "Q"), _message("assistant", "A")), [_image()], TOKENIZER, PATCH
        )


def _exchanges() -> Conversation:
    turns = [_message("system", "S")]
    for number in range(4):
        media = [PICTURE] if number == 1 else []
        turns += [_message("user", *media, f"Q{number}"), _message("assistant", f"A{number}")]
    return _conversation(*turns)


def test_old_exchanges_go_first_and_media_system_and_last_answer_stay() -> None:
    full = render_conversation(_exchanges(), [_image()], TOKENIZER, PATCH)
    length = len(full.input_ids)
    assert _learnt(render_conversation(_exchanges(), [_image()], TOKENIZER, PATCH, max_length=length)) == _learnt(full)
    less = render_conversation(_exchanges(), [_image()], TOKENIZER, PATCH, max_length=length - 1)
    assert _learnt(less) == ["A1<|im_end|>", "A2<|im_end|>", "A3<|im_end|>"]
    least = render_conversation(_exchanges(), [_image()], TOKENIZER, PATCH, max_length=len(less.input_ids) - 1)
    assert _learnt(least) == ["A1<|im_end|>", "A3<|im_end|>"]
    assert _text(least).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nQ1")
    size = len(least.input_ids)
    with pytest.raises(ValueError, match=rf"rows\.jsonl:7: {size} tokens.*max_length.*\b{size - 1}\b"):
        render_conversation(_exchanges(), [_image()], TOKENIZER, PATCH, max_length=size - 1)


def test_a_stream_is_never_shortened() -> None:
    item = _video(0.0, 1.0, 2.0)
    length = len(render_conversation(STREAM, [item], TOKENIZER, PATCH).input_ids)
    with pytest.raises(ValueError, match=rf"\b{length} tokens.*max_length.*\b{length - 1}\b"):
        render_conversation(STREAM, [item], TOKENIZER, PATCH, max_length=length - 1)


@pytest.fixture(scope="module")
def port() -> VideoLlama3Processor:
    """The processor of transformers with our tokenizer; it names placeholders of images and videos apart."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|image_pad|>", "<|video_pad|>"]})
    return VideoLlama3Processor(VideoLlama3ImageProcessor(), tokenizer, VideoLlama3VideoProcessor())


def _as_ours(port: VideoLlama3Processor, ids: list[int]) -> list[int]:
    return [IMAGE if token in (port.image_token_id, port.video_token_id) else token for token in ids]


@pytest.mark.parametrize(("fps", "step"), [(8.0, 8), (30.0, 45), (29.97, 15)])
def test_a_video_prompt_equals_the_port(port: VideoLlama3Processor, fps: float, step: int) -> None:
    pixels = torch.randint(256, (5, 3, 56, 84), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    indices = [number * step for number in range(5)]
    metadata = VideoMetadata(total_num_frames=1000, fps=fps, frames_indices=indices)
    text = "<|im_start|>user\n<|video_pad|>\nWhat comes first?<|im_end|>\n<|im_start|>assistant\n"
    sizes = {"shortest_edge": 56 * 84, "longest_edge": 5 * 56 * 84}
    theirs = port(text=[text], videos=[pixels], video_metadata=[metadata], do_sample_frames=False, size=sizes)
    frames = Frames(pixels, torch.tensor(indices, dtype=torch.float64) / fps)
    item = VisualItem(frames, "video", 2)
    conversation = _conversation(_message("user", CLIP, "What comes first?"), _message("assistant", "red"))
    ours = render_prompt(conversation, [item], TOKENIZER, 14)
    assert theirs["video_grid_thw"].tolist() == [list(item.grid(14))]
    assert ours.input_ids.tolist() == _as_ours(port, theirs["input_ids"][0])


def test_a_prompt_with_two_images_equals_the_port(port: VideoLlama3Processor) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), generator=generator).to(torch.uint8) for size in ((56, 84), (70, 56))]
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<|image_pad|>\n<|image_pad|>\nQ?<|im_end|>\n"
    theirs = port(text=[text + "<|im_start|>assistant\n"], images=images)
    zero = torch.zeros(1, dtype=torch.float64)
    items = [VisualItem(Frames(image[None], zero), "image", 1) for image in images]
    conversation = _conversation(_message("user", PICTURE, PICTURE, "Q?"), _message("assistant", "A"))
    ours = render_prompt(conversation, items, TOKENIZER, 14, system_prompt="S")
    assert theirs["image_grid_thw"].tolist() == [list(item.grid(14)) for item in items]
    assert ours.input_ids.tolist() == _as_ours(port, theirs["input_ids"][0])


_TEXTS = st.text(max_size=12).map(lambda text: f"{text}x").filter(str.strip)
_GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
_IMAGES = _GRIDS.map(lambda grid: (PICTURE, _image(*grid)))
_VIDEOS = st.tuples(_GRIDS, st.lists(st.floats(0, 5000), min_size=1, max_size=4)).map(
    lambda drawn: (CLIP, _video(*sorted(drawn[1]), rows=drawn[0][0], columns=drawn[0][1], merge_size=drawn[0][2]))
)
_EXCHANGES = st.lists(st.tuples(st.lists(_IMAGES | _VIDEOS, max_size=2), _TEXTS, _TEXTS), min_size=1, max_size=3)


@given(_EXCHANGES, st.sampled_from(["", "S"]))
@settings(derandomize=True, deadline=None)
def test_placeholders_are_visual_tokens_and_labels_are_answers(exchanges: list, system_prompt: str) -> None:
    messages: list[Message] = []
    visuals: list[VisualItem] = []
    for media, question, answer in exchanges:
        messages += [_message("user", *(part for part, _ in media), question), _message("assistant", answer)]
        visuals += [item for _, item in media]
    sample = render_conversation(_conversation(*messages), visuals, TOKENIZER, PATCH, system_prompt)
    assert (sample.input_ids == IMAGE).tolist() == sample.is_placeholder.tolist()
    assert int(sample.is_placeholder.sum()) == sum(item.num_visual_tokens(PATCH) for item in visuals)
    assert _learnt(sample) == [f"{answer}<|im_end|>" for _, _, answer in exchanges]
    assert sample.num_labels >= len(exchanges)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.lists(st.floats(0, 100), min_size=1, max_size=4))
@settings(derandomize=True, deadline=None)
def test_in_a_stream_no_turn_sees_the_future(seconds: list[float], times: list[float]) -> None:
    turns = [_message("assistant", f"at {time!r}", time=time) for time in sorted(times)]
    item = _video(*sorted(seconds))
    sample = render_conversation(
        _conversation(_message("stream", CLIP), _message("user", "Q", time=0.0), *turns), [item], TOKENIZER, PATCH
    )
    text = _text(sample)
    assert text.count("<image>") == len(seconds) == int(sample.is_placeholder.sum())
    place = 0
    for turn in turns:
        place = text.index(f"assistant\n{turn.parts[0].text}<", place)
        assert text[:place].count("<image>") == sum(second <= turn.time for second in seconds)
