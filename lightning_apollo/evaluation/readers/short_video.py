"""Readers of short-video benchmarks. MVBench, TempCompass, the Perception Test, EgoSchema, NExT-QA, ActivityNet-QA, Charades-STA.

A reader takes the folder into which the published files were unpacked. Prompts are worded as VideoLLaMA 3's evaluation code
words them (evaluation/benchmarks in its repository), where a docstring does not say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question, lettered, listed
from lightning_apollo.evaluation.readers.files import (
    find_files,
    find_media,
    read_csv,
    read_json,
    read_parquet,
)
from lightning_apollo.evaluation.readers.frames import frames_as_video
from lightning_apollo.evaluation.readers.prompts import BEST_LETTER, WORD_OR_PHRASE, with_options
from lightning_apollo.inference.parsers import Choice

MVBENCH_FOLDERS = {  # of each task's videos, below video/; the task is also the name of its file
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
MVBENCH_OF_A_PART = (  # tasks that ask about a part of the video, from `start` to `end`
    *("action_sequence", "action_prediction", "object_interaction"),
    *("action_localization", "episodic_reasoning"),
)
TEMPCOMPASS_FORMATS = {  # the free captions are scored by GPT-3.5 and left out
    "multi-choice": "Please answer with the option's letter from the given choices directly and only give the best option.",
    "yes_no": "Please answer with 'yes' or 'no' directly.",
    "caption_matching": "Please directly give the best option:",
}
NEXT_QA_KINDS = {"C": "causal", "T": "temporal", "D": "descriptive"}
ACTIVITYNET_KINDS = (
    *("motion", "spatial relation", "temporal relation", "yes or no", "colour"),
    *("object", "location", "number", "other"),
)


def mvbench(folder: Path) -> Iterator[Question]:
    """MVBench: json/TASK.json and video/... (huggingface.co/datasets/OpenGVLab/MVBench).

    A file is a list of {video, question, candidates, answer}, of some tasks with start and end in seconds. The videos of
    episodic_reasoning are folders of pictures, three to the second.
    """
    for task, place in MVBENCH_FOLDERS.items():
        for number, row in enumerate(read_json(folder, f"json/{task}.json")):
            choices = lettered(row["candidates"])
            if task == "episodic_reasoning":
                path = frames_as_video(folder, f"video/{place}/{row['video']}", frames_per_second=3)
            else:
                path = find_media(folder, (f"video/{place}",), row["video"])
            part = (row["start"], row["end"]) if task in MVBENCH_OF_A_PART else (None, None)
            yield Question(
                question_id=f"{task}/{number}",
                parts=(MediaPart("video", path, *part), TextPart(with_options(row["question"], choices))),
                answers=(choices[row["candidates"].index(row["answer"])].label,),
                metric="choice",
                choices=choices,
                groups=(("task", task.replace("_", " ")),),
            )


def tempcompass(folder: Path) -> Iterator[Question]:
    """TempCompass: FORMAT/test-*.parquet and videos/VIDEO_ID.mp4 (huggingface.co/datasets/lmms-lab/TempCompass).

    Columns: video_id, question, answer, dim. The choices are the lines below the question: "A. rising",
    "Caption A: ...", "Option 1: ..."; the answer is one of these lines, or yes or no.
    """
    for form, instruction in TEMPCOMPASS_FORMATS.items():
        for number, row in enumerate(read_parquet(folder, f"{form}/test-*.parquet")):
            if form == "yes_no":
                choices, answer = (Choice("", "yes"), Choice("", "no")), row["answer"].strip().lower()
            else:
                lines = [_labelled(line) for line in row["question"].split("\n")[1:]]
                choices, answer = tuple(choice for choice in lines if choice), _labelled(row["answer"])
                answer = answer.label if answer else row["answer"]
            path = find_media(folder, ("videos", "video"), row["video_id"])
            text = f"Question: {row['question']}\n{instruction}"
            yield Question(
                question_id=f"{form}/{number}",
                parts=(MediaPart("video", path), TextPart(text)),
                answers=(answer,),
                metric="choice",
                choices=choices,
                groups=(("format", form), ("aspect", row["dim"])),
            )


def _labelled(line: str) -> Choice | None:
    match = re.match(r"(?:\w+ )?(\w)[.:] ?(.+)$", line.strip())
    return Choice(match[1], match[2].strip()) if match else None


def perception_test(folder: Path) -> Iterator[Question]:
    """The Perception Test's validation set: mc_question_valid.json and videos/ (github.com/google-deepmind/perception_test).

    {video: {metadata: {video_id}, mc_question: [{id, question, options, answer_id, area, reasoning}]}}. The test set's
    answers are not published.
    """
    rows = read_json(folder, "mc_question_valid.json", "*/mc_question_valid.json")
    for video in rows.values():
        name = video["metadata"]["video_id"]
        path = find_media(folder, ("videos", "valid_videos", "valid_videos/videos"), name)
        for row in video["mc_question"]:
            choices = lettered(row["options"])
            yield Question(
                question_id=f"{name}/{row['id']}",
                parts=(MediaPart("video", path), TextPart(with_options(row["question"], choices))),
                answers=(choices[row["answer_id"]].label,),
                metric="choice",
                choices=choices,
                groups=(("area", row["area"]), ("reasoning", row["reasoning"])),
            )


def egoschema(folder: Path) -> Iterator[Question]:
    """EgoSchema's subset with answers: questions.json, subset_answers.json, videos by q_uid (github.com/egoschema/EgoSchema).

    questions.json is a list of {q_uid, question, "option 0" ... "option 4"}, subset_answers.json {q_uid: number}. The
    other answers are not published.
    """
    answers = read_json(folder, "subset_answers.json", "*/subset_answers.json")
    for row in read_json(folder, "questions.json", "*/questions.json"):
        if row["q_uid"] not in answers:
            continue
        choices = lettered([row[f"option {number}"] for number in range(5)])
        text = (
            "Select the best answer to the following multiple-choice question based on the video.\n"
            f"{row['question']}\nOptions:\n{listed(choices)}{BEST_LETTER} The best answer is: "
        )
        path = find_media(folder, ("good_clips_git", "videos"), row["q_uid"])
        yield Question(
            question_id=row["q_uid"],
            parts=(MediaPart("video", path), TextPart(text)),
            answers=(choices[answers[row["q_uid"]]].label,),
            metric="choice",
            choices=choices,
        )


def next_qa(folder: Path) -> Iterator[Question]:
    """NExT-QA, multiple choice: test.csv, map_vid_vidorID.json, NExTVideo/ (github.com/doc-doc/NExT-QA).

    Columns: video, frame_count, width, height, question, answer (number), qid, type (CW, CH, TN, TC, TP, DC, DL, DO), a0
    to a4. The map leads from `video` to its file below NExTVideo.
    """
    files = read_json(folder, "map_vid_vidorID.json", "*/map_vid_vidorID.json")
    for row in read_csv(folder, "test.csv", "*/test.csv"):
        choices = lettered([row[f"a{number}"] for number in range(5)])
        path = find_media(folder, ("NExTVideo", "videos"), files[row["video"]])
        yield Question(
            question_id=f"{row['video']}/{row['qid']}",
            parts=(MediaPart("video", path), TextPart(with_options(row["question"], choices))),
            answers=(choices[int(row["answer"])].label,),
            metric="choice",
            choices=choices,
            groups=(("question", NEXT_QA_KINDS[row["type"][0]]), ("type", row["type"])),
        )


def activitynet_qa(folder: Path) -> Iterator[Question]:
    """ActivityNet-QA: test_q.json, test_a.json and v_NAME videos (github.com/MILVLG/activitynet-qa).

    test_q.json is a list of {video_name, question, question_id}, test_a.json of {question_id, answer, type (0 to 8)}.
    Papers let GPT judge free answers; here a short one is asked for and must be the expected one.
    """
    answers = {row["question_id"]: row for row in read_json(folder, "test_a.json", "dataset/test_a.json")}
    for row in read_json(folder, "test_q.json", "dataset/test_q.json"):
        expected = answers[row["question_id"]]
        path = find_media(folder, ("all_test", "videos"), f"v_{row['video_name']}")
        yield Question(
            question_id=row["question_id"],
            parts=(MediaPart("video", path), TextPart(f"Question: {row['question']}\n{WORD_OR_PHRASE}")),
            answers=(str(expected["answer"]),),
            metric="short_answer",
            groups=(("question", ACTIVITYNET_KINDS[int(expected["type"])]),),
        )


def charades_sta(folder: Path) -> Iterator[Question]:
    """Charades-STA: charades_sta_test.txt and Charades_v1/VIDEO.mp4 (github.com/jiyanggao/TALL).

    A line is "VIDEO BEGIN END##SENTENCE", times in seconds. Only the end of VideoLLaMA 3's prompt is published.
    """
    path = find_files(folder, "charades_sta_test.txt", "*/charades_sta_test.txt")[0]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if not line.strip():
            continue
        facts, sentence = line.split("##", 1)
        video, begin, end = facts.split()
        media = find_media(folder, ("Charades_v1", "Charades_v1_480", "videos"), video)
        text = f'When does this happen: "{sentence.strip()}" Please output the start and end timestamps in seconds.'
        yield Question(
            question_id=f"{video}/{number}",
            parts=(MediaPart("video", media), TextPart(text)),
            answers=(f"{begin} - {end}",),
            metric="span_overlap",
        )
