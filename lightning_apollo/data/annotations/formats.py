"""Formats of annotation rows, recognised by their keys and listed by `data formats`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_apollo.data.annotations import published
from lightning_apollo.data.conversation import RowError

_NATIVE = ("messages", "conversations", "conversation")  # keys of rows that have turns already
_MEDIA = ("image", "images", "video", "videos")
_DOWNLOAD = frozenset(  # what img2dataset and video2dataset write beside the columns of the table that they were given
    ("url", "error_message", "width", "height", "original_width", "original_height", "exif", "sha256", "md5", "shard_id",
     "txt", "yt_meta_dict")
)  # fmt: skip


FILES = {  # kinds of manifests
    ".json": "a list of rows, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark",
    ".jsonl": "a row on each line, encoded likewise",
    ".parquet": "rows of a table; bytes of media may lie in them",
    ".arrow": "the same, as save_to_disk of datasets writes them, or an Arrow file",
    "*.json": "with tar shards for a root: every .json member is a row",
}


@dataclass(frozen=True)
class Format:
    """A form of rows."""

    name: str
    keys: tuple[str, ...]  # a row with all of them is of this form
    source: str  # repository and file in which the form is published, or the code that reads it
    example: dict[str, Any]
    convert: Callable[[published.PublishedRow], published.PublishedRow] | None = None  # None: the row has turns already
    metadata: frozenset[str] = frozenset()  # keys of the form that say nothing of the sample


FORMATS = (
    Format(
        "conversations",
        ("conversations",),
        "DAMO-NLP-SG/VideoLLaMA3, README.md; LLaVA-VL/LLaVA-NeXT, llava/train/train.py",
        {"video": "clips/kitchen.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat is cut first?"},
                                                         {"from": "gpt", "value": "The onion."}]},
    ),
    Format(
        "messages",
        ("messages",),
        "hiyouga/LLaMA-Factory, data/mllm_demo.json",
        {"messages": [{"role": "user", "content": "<image>Which colour is the car?"},
                      {"role": "assistant", "content": "Red."}], "images": ["car.jpg"]},
    ),
    Format(
        "content lists",
        ("messages",),
        "huggingface/transformers, docs/source/en/chat_templating_multimodal.md",
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                      {"role": "assistant", "content": "A tram."}], "images": ["tram.png"]},
    ),
    Format(
        "streams",
        ("stream", "conversation"),
        "DAMO-NLP-SG/VideoLLaMA3, videollama3/train.py",
        {"stream": True, "video": ["game.mp4"], "start_time": 0.0, "end_time": 6.0,
         "conversation": [{"role": "user", "content": "Tell me when a goal falls.", "time": 0.0},
                          {"role": "assistant", "content": "Goal!", "time": 4.0}]},
    ),
    Format(
        "ShareGPT4Video",
        ("video_path", "captions"),
        "AnjieCheng/SpatialRGPT, llava/data/dataset.py; "
        "ml-energy/benchmark, benchmark/diffusion/image-to-video/sharegpt4video/sample.py",
        {"video_id": "j5JqNXjGufw", "video_path": "panda/j5JqNXjGufw.mp4", "timestamp": ["00:00:00", "00:00:04"],
         "keyframe": [0, 96], "captions": [{"idx": "0-4", "content": "The cook turns to the stove."},
                                           {"idx": "-1", "content": "A cook fries an onion."}],
         "zip_folder": "panda_videos_1.zip"},
        published.sharegpt4video,
        frozenset(("video_id", "timestamp", "keyframe", "zip_folder")),
    ),
    Format(
        "VideoChat2-IT",
        ("QA",),
        "OpenGVLab/Ask-Anything, video_chat2/dataset/it_dataset.py",
        {"video": "079.mp4", "start": 2.0, "end": 8.5,
         "QA": [{"i": "Answer in one sentence.", "q": "What happens?", "a": "A door opens."},
                {"i": "", "q": "Who opens it?", "a": "A child."}]},
        published.videochat2,
    ),
    Format(
        "FineVision",
        ("texts",),
        "patrickamadeus/nanoVLM (of huggingface/nanoVLM), data/datasets.py",
        {"images": ["chart.png"], "texts": [{"user": "What is the highest bar?", "assistant": "The third."}],
         "source": "chartqa", "relevance_ratings": [5], "relevance_min": 5, "image_correspondence_ratings": [4],
         "image_correspondence_min": 4, "visual_dependency_ratings": [5], "visual_dependency_min": 5,
         "formatting_ratings": [4], "formatting_min": 4},
        published.finevision,
        frozenset(("source", *(f"{name}_{kind}" for kind in ("ratings", "min")
                   for name in ("relevance", "image_correspondence", "visual_dependency", "formatting")))),
    ),
    Format(
        "alpaca",
        ("instruction", "output"),
        "hiyouga/LLaMA-Factory, data/README.md",
        {"instruction": "What is sold here?", "input": "Answer in one word.", "output": "Bread.", "images": ["shop.jpg"],
         "system": "You are brief.", "history": [["Is it a shop?", "Yes."]]},
        published.alpaca,
        frozenset(("text",)),  # of tatsu-lab/alpaca: the three others as one prompt
    ),
    Format(
        "Molmo2-Cap",
        ("video", "video_frame_merged_caption"),
        "tidalove/molmo2fish (of allenai/molmo2), olmo/data/molmo2_datasets.py",
        {"key": "000000017", "status": "success", "url": "https://example.org/watch", "video_id": "a1b2c3",
         "video_frame_merged_caption": "A tram stops, and two people get in.", "merged_caption": "A tram stops.",
         "annotation_score": 4},
        published.video_caption,
        frozenset(("video_id", "merged_caption", "video_caption", "video_transcript", "clip_captions", "clip_transcripts",
                   "frame_captions", "annotation_score")),
    ),
    Format(
        "Molmo2-VideoCapQA",
        ("Question", "Answer"),
        "tidalove/molmo2fish (of allenai/molmo2), olmo/data/molmo2_datasets.py",
        {"key": "000000018", "status": "success", "url": "https://example.org/watch", "video_id": "a1b2c3",
         "Question": "What stops?", "Answer": "A tram.", "Category": "object", "NegativeAnswers": ["A bus.", "A car."]},
        published.question_and_answer,
        frozenset(("video_id", "Category", "NegativeAnswers")),
    ),
    Format(
        "question and answer",
        ("question", "answer"),
        "tidalove/molmo2fish (of allenai/molmo2), olmo/data/pixmo_datasets.py",
        {"video": "tram.mp4", "question": "How many people get in?", "answer": "Two."},
        published.question_and_answer,
        frozenset(("video_id", "image_url", "image_sha256")),
    ),
    Format(
        "PixMo-Cap",
        ("image", "caption"),
        "tidalove/molmo2fish (of allenai/molmo2), olmo/data/pixmo_datasets.py; rom1504/img2dataset, img2dataset/writer.py",
        {"key": "000000017", "status": "success", "url": "https://example.org/17.jpg", "caption": "A grey cat on a wall.",
         "error_message": None, "width": 640, "height": 480, "original_width": 640, "original_height": 480, "exif": "{}",
         "sha256": "9f86d081", "transcripts": ["So this is a cat."]},
        published.image_caption,
        frozenset(("image_url", "transcripts")),
    ),
    Format(
        "video and caption",
        ("video", "caption"),
        "iejMac/video2dataset, video2dataset/data_writer.py",
        {"key": "000000003", "status": "success", "url": "https://example.org/watch", "caption": "A dog jumps."},
        published.video_caption,
    ),
)  # fmt: skip


def normalise(row: dict[str, object]) -> dict[str, object]:
    """The row with its turns under `messages`; one that has turns already is handed back as it is.

    Keys that the row's form does not have stay in it. RowError where the form is known but the row is not of it.
    """
    if any(key in row for key in _NATIVE):
        return row
    row, harmless = dict(row), frozenset[str]()
    if "key" in row and "status" in row:
        row, harmless = published.downloaded(row), _DOWNLOAD
    for form in FORMATS:
        if form.convert is not None and all(key in row for key in form.keys):
            converted = form.convert(row)
            return {key: value for key, value in converted.items() if key not in form.metadata | harmless}
    if "caption" in row:
        raise RowError(f"a caption without its media: name the downloaded file under {' or '.join(map(repr, _MEDIA))}")
    return row
