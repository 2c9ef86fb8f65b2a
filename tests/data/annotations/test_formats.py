"""Published rows as conversations. Each fixture is as the file that it names publishes or reads it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.annotations.formats import FORMATS, Format, normalise
from lightning_apollo.data.annotations.published import IMAGE_QUESTION, VIDEO_QUESTION
from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import Message, RowError, TextPart
from tests.places import ROOT

DOC = ROOT / "docs/data.md"
PUBLISHED = [form for form in FORMATS if form.convert is not None]


def _said(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Role and content of every turn: text as it is, media as <modality path>."""

    def text(message: Message) -> str:
        shown = (p.text if isinstance(p, TextPart) else f"<{p.modality} {p.path}>" for p in message.parts)
        return "".join(shown)

    return [(message.role, text(message)) for message in parse_row(row)]


def test_sharegpt4video_learns_the_caption_of_the_whole_video() -> None:
    # Keys: ml-energy/benchmark, benchmark/diffusion/image-to-video/sharegpt4video/sample.py
    # Question and answer: AnjieCheng/SpatialRGPT, llava/data/dataset.py (VILA)
    row = {
        "video_id": "j5JqNXjGufw",
        "video_path": "panda/j5JqNXjGufw.mp4",
        "timestamp": ["00:00:00", "00:00:04"],
        "keyframe": [0, 96],
        "captions": [{"idx": "0-4", "content": "He turns."}, {"idx": "-1", "content": "A cook fries an onion."}],
        "zip_folder": "panda_videos_1.zip",
    }
    question = f"<video panda/j5JqNXjGufw.mp4>{VIDEO_QUESTION}"
    assert _said(row) == [("user", question), ("assistant", "A cook fries an onion.")]
    assert normalise(row).keys() == {"video", "messages"}
    with pytest.raises(RowError, match=r"0.*'idx' \"-1\""):
        parse_row(row | {"captions": row["captions"][:1]})


def test_videochat2_puts_its_instruction_into_a_system_turn() -> None:
    # OpenGVLab/Ask-Anything, video_chat2/dataset/it_dataset.py
    row: dict[str, Any] = {
        "video": "079.mp4",
        "start": 2.0,
        "end": 8.5,
        "QA": [
            {"i": "Answer briefly.", "q": "What happens?", "a": "A door opens."},
            {"i": "Answer briefly.", "q": "Who opens it?", "a": "A child."},
            {"i": "Count.", "q": "How many?", "a": "One."},
        ],
    }
    assert _said(row) == [
        ("system", "Answer briefly."),
        ("user", "<video 079.mp4>What happens?"),
        ("assistant", "A door opens."),
        ("user", "Who opens it?"),
        ("assistant", "A child."),
        ("user", "Count.\nHow many?"),
        ("assistant", "One."),
    ]
    part = next(part for message in parse_row(row) for part in message.parts if not isinstance(part, TextPart))
    assert (part.begin_seconds, part.end_seconds) == (2.0, 8.5)
    caption = {"image": "a.jpg", "QA": [{"i": "", "q": "", "a": "A cat."}]}
    assert _said(caption) == [("user", "<image a.jpg>"), ("assistant", "A cat.")]


def test_finevision_shows_all_images_before_the_first_question() -> None:
    # patrickamadeus/nanoVLM (of huggingface/nanoVLM), data/datasets.py
    row = {
        "images": ["a.png", "b.png"],
        "texts": [{"user": "What changed?", "assistant": "The door."}, {"user": "How?", "assistant": "It is open."}],
        "source": "spot_the_diff",
        "relevance_ratings": [5, 4],
        "relevance_min": 4,
        "image_correspondence_ratings": [5, 5],
        "image_correspondence_min": 5,
        "visual_dependency_ratings": [5, 5],
        "visual_dependency_min": 5,
        "formatting_ratings": [4, 4],
        "formatting_min": 4,
    }
    assert _said(row)[0] == ("user", "<image a.png><image b.png>What changed?")
    assert _said(row)[3] == ("assistant", "It is open.")
    assert normalise(row).keys() == {"images", "messages"}


def test_alpaca_has_a_system_turn_earlier_rounds_and_an_input() -> None:
    # hiyouga/LLaMA-Factory, data/README.md, "Alpaca Format" and "Multimodal Dataset"
    row = {
        "instruction": "What is sold here?",
        "input": "Answer in one word.",
        "output": "Bread.",
        "system": "You are brief.",
        "history": [["Is it a shop?", "Yes."]],
        "images": ["shop.jpg"],
    }
    assert _said(row) == [
        ("system", "You are brief."),
        ("user", "<image shop.jpg>Is it a shop?"),
        ("assistant", "Yes."),
        ("user", "What is sold here?\nAnswer in one word."),
        ("assistant", "Bread."),
    ]
    # tatsu-lab/stanford_alpaca, alpaca_data.json; `text` is the same again, as tatsu-lab/alpaca adds it
    plain = {"instruction": "Add two and two.", "input": "", "output": "Four.", "text": "Below is an instruction"}
    assert _said(plain) == [("user", "Add two and two."), ("assistant", "Four.")]
    with pytest.raises(RowError, match=r"'history'.*list"):
        parse_row(row | {"history": ["Is it?"]})


IMG2DATASET = {  # rom1504/img2dataset, README.md and img2dataset/writer.py
    "url": "https://example.org/17.jpg",
    "key": "000120017",
    "status": "success",
    "error_message": None,
    "width": 640,
    "height": 480,
    "original_width": 640,
    "original_height": 480,
    "exif": "{}",
    "sha256": "9f86d081",
}
VIDEO2DATASET = {"url": "https://example.org/w", "key": "000000003", "status": "success", "error_message": None}
# iejMac/video2dataset, README.md and video2dataset/data_writer.py


def test_pixmo_cap_is_a_question_of_ours_and_its_caption() -> None:
    # tidalove/molmo2fish (of allenai/molmo2), olmo/data/pixmo_datasets.py: PixMoCap
    row = {"image": "ab.jpg", "image_url": "https://example.org/17.jpg", "caption": "A cat.", "transcripts": ["So."]}
    assert _said(row) == [("user", f"<image ab.jpg>{IMAGE_QUESTION}"), ("assistant", "A cat.")]
    assert normalise(row).keys() == {"image", "messages"}
    with pytest.raises(RowError, match=r"caption.*'image' or"):
        parse_row({"image_url": "https://example.org/17.jpg", "caption": "A cat.", "transcripts": []})


def test_downloads_are_found_by_their_key() -> None:
    assert _said({**IMG2DATASET, "caption": "A cat."})[0][1] == f"<image 00012/000120017.jpg>{IMAGE_QUESTION}"
    # tidalove/molmo2fish, olmo/data/molmo2_datasets.py: Molmo2-Cap, Molmo2-VideoCapQA
    cap = {
        "video_id": "a1",
        "video_frame_merged_caption": "A tram stops.",
        "merged_caption": "A tram.",
        "clip_captions": [],
    }
    assert _said({**VIDEO2DATASET, **cap}) == [
        ("user", f"<video 00000/000000003.mp4>{VIDEO_QUESTION}"),
        ("assistant", "A tram stops."),
    ]
    question = {"video_id": "a1", "Question": "What stops?", "Answer": "A tram.", "NegativeAnswers": ["A bus."]}
    assert _said({**VIDEO2DATASET, **question})[0][1] == "<video 00000/000000003.mp4>What stops?"
    assert normalise({**VIDEO2DATASET, **cap}).keys() == {"video", "messages"}


def test_a_download_that_failed_is_refused() -> None:
    with pytest.raises(RowError, match="status 'failed_to_download'"):
        parse_row({**IMG2DATASET, "caption": "A cat.", "status": "failed_to_download"})


def test_llava_video_shows_its_video_where_the_text_says_image() -> None:
    # LLaVA-VL/LLaVA-NeXT, scripts/video/train/exp.yaml names the files of lmms-lab/LLaVA-Video-178K
    row = {
        "conversations": [{"from": "human", "value": "<image>\nWhat stops?"}, {"from": "gpt", "value": "A tram."}],
        "id": "ytb_mvGBEtO",
        "data_source": "0_30_s_youtube_v0_1",
        "video": "liwei_youtube_videos/videos/youtube_video_2024/ytb_mvGBEtO.mp4",
    }
    assert _said(row)[0] == ("user", f"<video {row['video']}>What stops?")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_that_is_listed_is_read_and_documented(form: Format) -> None:
    assert parse_row(form.example)
    blocks = re.findall(r"```json\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert form.example in [json.loads(line) for block in blocks for line in block.splitlines()]
    assert all(key in form.example for key in form.keys) or "key" in form.example


@pytest.mark.parametrize("form", PUBLISHED, ids=lambda form: form.name)
def test_a_key_that_a_format_does_not_have_stays_in_the_row(form: Format) -> None:
    row = form.example | {"tools": ["x"], "loss": False}
    before = json.dumps(row)
    left = normalise(row)
    assert left["tools"] == ["x"]
    assert left["loss"] is False
    assert not left.keys() & form.metadata
    assert left.keys() <= {"messages", "image", "images", "video", "start_time", "end_time", "tools", "loss"}
    assert json.dumps(row) == before, "the row itself is as it was"


def test_rows_with_turns_pass_untouched() -> None:
    row: dict[str, object] = {"messages": [], "QA": [], "caption": "c", "key": "1", "status": "failed"}
    assert normalise(row) is row


def test_the_list_of_formats_has_them_all() -> None:
    result = CliRunner().invoke(app, ["data", "formats"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert all(form.name in words and form.source in words for form in FORMATS)
    assert all(len(line) <= 80 for line in result.output.splitlines())
