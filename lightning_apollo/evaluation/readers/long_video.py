"""Readers of long-video benchmarks (Video-MME, MLVU, LongVideoBench, LVBench).

A reader takes the folder into which the published files were unpacked. Prompts are worded as VideoLLaMA 3's evaluation code
words them (evaluation/benchmarks in its repository).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question, Subtitle, lettered, listed
from lightning_apollo.evaluation.readers.files import (
    find_media,
    inside,
    read_json,
    read_json_lines,
    read_parquet,
    read_srt,
)
from lightning_apollo.evaluation.readers.prompts import BEST_LETTER, LETTER, with_options
from lightning_apollo.inference.parsers import Choice

MLVU_TASKS = {  # the multiple-choice tasks: file and folder
    "plot QA": "1_plotQA",
    "needle QA": "2_needle",
    "ego reasoning": "3_ego",
    "action count": "4_count",
    "action order": "5_order",
    "anomaly recognition": "6_anomaly_reco",
    "topic reasoning": "7_topic_reasoning",
}
_SHORTEST_SUBTITLE_SECONDS = 1.0


def video_mme(folder: Path) -> Iterator[Question]:
    """Video-MME: videomme/test-*.parquet and data/VIDEO_ID.mp4 (huggingface.co/datasets/lmms-lab/Video-MME).

    Columns: video_id, duration (short, medium, long), domain, sub_category, videoID, question_id, task_type, question,
    options (list of "A. ..."), answer (letter).
    """
    for row in read_parquet(folder, "videomme/test-*.parquet", "test-*.parquet"):
        choices = lettered([option.split(".", 1)[1] for option in row["options"]])
        text = (
            "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
            f"letter (A, B, C, or D) of the correct option.\n{row['question']}\n{listed(choices, '{0}. {1}')}"
            f"{BEST_LETTER} The best answer is:"
        )
        yield Question(
            question_id=row["question_id"],
            parts=(MediaPart("video", find_media(folder, ("data", "videos", "video"), row["videoID"])), TextPart(text)),
            answers=(row["answer"],),
            metric="choice",
            choices=choices,
            groups=(("duration", row["duration"]), ("task", row["task_type"]), ("domain", row["domain"])),
        )


def video_mme_subtitles(folder: Path) -> Iterator[Question]:
    """Video-MME with subtitle/VIDEO_ID.srt: those that are spoken while a sampled frame plays stand above the question."""
    for question in video_mme(folder):
        name = f"{Path(question.scene).stem}.srt"
        places = (folder / place / name for place in ("subtitle", "subtitles"))
        path = next((path for path in places if path.is_file()), folder / name)
        yield replace(question, subtitles=read_srt(path))


def mlvu(folder: Path) -> Iterator[Question]:
    """MLVU dev, multiple choice: json/1_plotQA.json ... and video/1_plotQA/ ... (huggingface.co/datasets/MLVU/MVLU).

    A file is a list of {video, question, candidates, answer}, the answer being one of the candidates. The two tasks of
    free text (8, 9) are scored by GPT-4 and left out.
    """
    for task, name in MLVU_TASKS.items():
        for number, row in enumerate(read_json(folder, f"json/{name}.json", f"MLVU/json/{name}.json")):
            choices = lettered(row["candidates"])
            path = find_media(folder, (f"video/{name}", f"MLVU/video/{name}"), row["video"])
            yield Question(
                question_id=f"{name}/{number}",
                parts=(MediaPart("video", path), TextPart(with_options(row["question"], choices))),
                answers=(choices[row["candidates"].index(row["answer"])].label,),
                metric="choice",
                choices=choices,
                groups=(("task", task),),
            )


def long_video_bench(folder: Path) -> Iterator[Question]:
    """LongVideoBench val: lvb_val.json, videos/, subtitles/ (huggingface.co/datasets/longvideobench/LongVideoBench).

    A list of {id, video_path, question, candidates, correct_choice (number), question_category, topic_category, level,
    duration_group (seconds), duration, subtitle_path, starting_timestamp_for_subtitles}. Subtitles stand between the
    frames.
    """
    for row in read_json(folder, "lvb_val.json"):
        choices = lettered(row["candidates"])
        text = f"Question: {row['question']}\n{listed(choices, '{0}. {1}')}{LETTER}"
        yield Question(
            question_id=row["id"],
            parts=(MediaPart("video", find_media(folder, ("videos",), row["video_path"])), TextPart(text)),
            answers=(choices[row["correct_choice"]].label,),
            metric="choice",
            choices=choices,
            groups=(
                ("duration", f"up to {row['duration_group']} s"),
                ("level", row["level"]),
                ("category", row["question_category"]),
            ),
            subtitles=_json_subtitles(inside(folder / "subtitles", row["subtitle_path"]), row),
            subtitle_placement="between",
        )


def _json_subtitles(path: Path, row: dict[str, Any]) -> tuple[Subtitle, ...]:
    """Subtitles in either of the two forms: {start, end ("h:mm:ss.sss"), line} or {timestamp: [begin, end], text}.

    Their clock is ahead of the video's by starting_timestamp_for_subtitles; an end that is missing is the video's. As in
    the benchmark's own loader, one shorter than a second is taken for a second around its middle.
    """
    if not path.is_file():
        return ()
    subtitles = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        if "timestamp" in entry:
            begin, end = entry["timestamp"]
            end, text = row["duration"] if end is None else end, entry["text"]
        else:
            begin, end = (_clock_seconds(entry[key]) for key in ("start", "end"))
            text = entry["line"]
        middle = (begin + end) / 2 - row["starting_timestamp_for_subtitles"]
        half = max(end - begin, _SHORTEST_SUBTITLE_SECONDS) / 2
        subtitles.append(Subtitle(middle - half, middle + half, text))
    return tuple(subtitles)


def _clock_seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def lvbench(folder: Path) -> Iterator[Question]:
    """LVBench: video_info.meta.jsonl and videos by their key (github.com/zai-org/LVBench).

    A line is {key, type, qa: [{uid, question, answer (letter), question_type: [...]}]}; the question ends with its
    choices, one "(A) ..." to a line.
    """
    for video in read_json_lines(folder, "video_info.meta.jsonl", "data/video_info.meta.jsonl"):
        path = find_media(folder, ("video", "videos", "data"), video["key"])
        for row in video["qa"]:
            found = re.findall(r"^\(([A-Z])\)\s*(.*)$", row["question"], flags=re.MULTILINE)
            yield Question(
                question_id=str(row["uid"]),
                parts=(MediaPart("video", path), TextPart(f"{row['question']}\n{LETTER}")),
                answers=(row["answer"],),
                metric="choice",
                choices=tuple(Choice(label, text.strip()) for label, text in found),
                groups=tuple(("question", kind) for kind in row["question_type"]),
            )
