"""Small benchmarks in their published files, made here with decodable pictures.

Videos are missing; what a reader makes of them is a path.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, Any]

MVBENCH_TASKS = (
    *("action_sequence", "action_prediction", "action_antonym", "fine_grained_action", "unexpected_action"),
    *("object_existence", "object_interaction", "object_shuffle", "moving_direction", "action_localization"),
    *("scene_transition", "action_count", "moving_count", "moving_attribute", "state_change", "fine_grained_pose"),
    *("character_order", "egocentric_navigation", "episodic_reasoning", "counterfactual_inference"),
)
MLVU_FILES = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_table(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def picture(level: int) -> Row:
    """A picture as the datasets library stores it in Parquet, of its own grey level."""
    data = io.BytesIO()
    Image.new("RGB", (32, 24), (level, level, level)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": f"{level}.png"}


def video_mme(folder: Path) -> None:
    row = {"domain": "Knowledge", "sub_category": "Astronomy", "task_type": "Counting Problem", "video_id": "001"}
    options = ["A. One.", "B. Two.", "C. Three.", "D. Four."]
    rows = [
        row | {"videoID": name, "question_id": f"001-{n}", "duration": length, "question": f"How many in {name}?"}
        | {"options": options, "answer": "ABCD"[n]}
        for n, (name, length) in enumerate([("aa", "short"), ("aa", "short"), ("b-b", "long")])
    ]  # fmt: skip
    write_table(folder / "videomme" / "test-00000-of-00001.parquet", rows)
    srt = (
        '1\n00:00:00,000 --> 00:00:01,500\n<font color="white" size=".72c">Good morning</font>\n\n'
        "2\n00:00:01,600 --> 00:00:02,400\nThree\nstars\n\n3\n00:01:00,000 --> 00:01:02,000\nGood night\n"
    )
    (folder / "subtitle").mkdir()
    (folder / "subtitle" / "aa.srt").write_text(srt)


def mlvu(folder: Path) -> None:
    for name in MLVU_FILES:
        rows = [
            {"video": f"{name}.mp4", "duration": 480.0, "question": "What is it?", "candidates": ["a cat", "a dog"]}
            | {"answer": answer, "question_type": name}
            for answer in ("a dog", "a cat")
        ]
        write_json(folder / "json" / f"{name}.json", rows)


def long_video_bench(folder: Path) -> None:
    row = {
        "video_id": "v",
        "video_path": "v.mp4",
        "question": "Who speaks?",
        "duration": 60.0,
        "level": "L1-Perception",
    }
    row |= {"topic_category": "T1", "question_category": "S2E", "duration_group": 60, "subtitle_path": "v_en.json"}
    row |= {"starting_timestamp_for_subtitles": 10.0}
    choices = ["the man", "the woman", "nobody", "a bird", "the dog"]
    rows = [row | {"id": f"v_{n}", "candidates": choices, "correct_choice": n} for n in (0, 4)]
    rows.append(row | {"id": "v_2", "candidates": choices[:3], "correct_choice": 1, "subtitle_path": "v_other.json"})
    write_json(folder / "lvb_val.json", rows)
    subtitles = [{"start": "00:00:10.000", "end": "00:00:10.400", "line": "hello"}]
    write_json(folder / "subtitles" / "v_en.json", subtitles)
    write_json(folder / "subtitles" / "v_other.json", [{"timestamp": [12.0, None], "text": "to the end"}])


def lvbench(folder: Path) -> None:
    question = "What is on the wall?\n(A) A clock\n(B) A map\n(C) A lamp\n(D) Nothing"
    kinds = [["key information retrieval"], ["entity recognition", "reasoning"]]
    qa = [
        {"uid": n, "question": question, "answer": "BD"[n], "question_type": kind, "time_reference": "00:15-00:19"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "video_info.meta.jsonl").write_text(json.dumps({"key": "Cm73ma6Ibcs", "type": "tv", "qa": qa}) + "\n")


def mvbench(folder: Path) -> None:
    for task in MVBENCH_TASKS:
        row = {"video": "clip.mp4", "question": "What happened?", "candidates": ["it fell", "it rose", "nothing"]}
        rows = [row | {"answer": "it rose", "start": 1.5, "end": 4.0}]
        write_json(folder / "json" / f"{task}.json", rows)
    frames = folder / "video" / "tvqa" / "frames_fps3_hq" / "clip.mp4"  # the folder of one clip's pictures
    frames.mkdir(parents=True)
    for number in range(1, 7):
        Image.new("RGB", (33, 24), (40 * number, 0, 0)).save(frames / f"{number:05d}.jpg", quality=95)


def tempcompass(folder: Path) -> None:
    lines = "Which way does it go?\nA. up\nB. down\nC. left"
    captions = "Which caption matches the video better?\nCaption A: It goes up.\nCaption B: It goes down."
    options = "Which description is a more suitable match to the video?\nOption 1: It turns.\nOption 2: It stops."
    row = {"video_id": "42", "dim": "direction"}
    write_table(
        folder / "multi-choice" / "test-00000-of-00001.parquet", [row | {"question": lines, "answer": "B. down"}]
    )
    yes_no = [row | {"question": "Does it go up?", "answer": "no"}]
    write_table(folder / "yes_no" / "test-00000-of-00001.parquet", yes_no)
    matching = [
        row | {"question": captions, "answer": "Caption B: It goes down."},
        row | {"dim": "speed", "question": options, "answer": "Option 1: It turns."},
    ]
    write_table(folder / "caption_matching" / "test-00000-of-00001.parquet", matching)


def perception_test(folder: Path) -> None:
    question = {"question": "Is it hidden?", "options": ["yes", "no", "cannot tell"], "area": "Physics", "tag": ["x"]}
    questions = [question | {"id": n, "answer_id": n, "reasoning": "Predictive"} for n in range(3)]
    content = {"video_7": {"metadata": {"split": "valid", "video_id": "video_7"}, "mc_question": questions}}
    write_json(folder / "mc_question_valid.json", content)


def egoschema(folder: Path) -> None:
    row = {"question": "Why?", "google_drive_id": "1"} | {f"option {n}": f"reason {n}" for n in range(5)}
    write_json(folder / "questions.json", [row | {"q_uid": uid} for uid in ("u-1", "u-2", "u-3")])
    write_json(folder / "subset_answers.json", {"u-1": 3, "u-3": 0})


def next_qa(folder: Path) -> None:
    write_json(folder / "map_vid_vidorID.json", {"4010069381": "1164/4010069381"})
    row = {"video": "4010069381", "frame_count": 369, "width": 640, "height": 480, "question": "why did he jump"}
    row |= {f"a{n}": f"because {n}" for n in range(5)}
    rows = [row | {"answer": 4, "qid": 6, "type": "CW"}, row | {"answer": 0, "qid": 7, "type": "TN"}]
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def activitynet_qa(folder: Path) -> None:
    questions = [{"video_name": "1QIUV7WYKXg", "question": "is it sunny", "question_id": f"q_{n}"} for n in range(2)]
    write_json(folder / "test_q.json", questions)
    answers = [{"question_id": "q_0", "answer": "yes", "type": 3}, {"question_id": "q_1", "answer": "3", "type": 7}]
    write_json(folder / "test_a.json", answers)


def charades_sta(folder: Path) -> None:
    lines = "3MSZA 24.3 30.4##person turn a light on.\n3MSZA 0.0 6##person flipped the light switch.\n"
    (folder / "charades_sta_test.txt").write_text(lines)


def mme(folder: Path) -> None:
    """One category with a folder for texts, one that keeps them beside its pictures."""
    for texts, pictures in (("artwork/questions_answers_YN", "artwork/images"), ("code_reasoning", "code_reasoning")):
        for place in (texts, pictures):
            (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (16, 16)).save(folder / pictures / f"000{number}.png")
            lines = ["Is it red? Please answer yes or no.\tYes", "Is it blue? Please answer yes or no.\tNo"]
            (folder / texts / f"000{number}.txt").write_text("\n".join(lines) + "\n")


def ai2d(folder: Path) -> None:
    row = {"question": "Which eats which?", "options": ["hawk", "mouse", "grass", "sun"]}
    rows = [row | {"answer": str(n), "image": picture(n)} for n in (2, 3)]
    write_table(folder / "data" / "test-00000-of-00001.parquet", rows)


def chartqa(folder: Path) -> None:
    for part, label in (("human", "14"), ("augmented", "Yes")):
        rows = [{"imgname": f"{part}.png", "query": "How many bars?", "label": label}]
        write_json(folder / "ChartQA Dataset" / "test" / f"test_{part}.json", rows)
    place = folder / "ChartQA Dataset" / "test" / "png"
    place.mkdir()
    for part in ("human", "augmented"):
        Image.new("RGB", (16, 16)).save(place / f"{part}.png")


def docvqa(folder: Path) -> None:
    row = {"docId": 14465, "ucsf_document_id": "x", "data_split": "val", "question_types": ["handwritten", "form"]}
    data = [row | {"questionId": 49153, "question": "Whose name?", "image": "documents/pybv0228_81.png"}
            | {"answers": ["T.F. Riehl", "TF Riehl"]}]  # fmt: skip
    write_json(folder / "val_v1.0_withQT.json", {"dataset_name": "docvqa", "dataset_split": "val", "data": data})
    (folder / "documents").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "documents" / "pybv0228_81.png")


def infovqa(folder: Path) -> None:
    row = {"questionId": 98313, "question": "Which site?", "image_local_name": "20471.jpeg", "ocr_output_file": "x"}
    data = [row | {"answers": ["pinterest"], "answer_type": ["single span"], "data_split": "val"}]
    write_json(folder / "infographicsVQA_val_v1.0_withQT.json", {"dataset_name": "infographicVQA", "data": data})


def gqa(folder: Path) -> None:
    types = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
    row = {"imageId": "n161313", "isBalanced": True, "types": types, "fullAnswer": "Yes, it is."}
    rows = {"201307251": row | {"question": "Is it overcast?", "answer": "yes"}}
    rows["201307252"] = row | {"question": "Who is it?", "answer": "man", "types": types | {"structural": "query"}}
    write_json(folder / "questions1.2" / "testdev_balanced_questions.json", rows)


def ocrbench(folder: Path) -> None:
    row = {"question": "what is written in the image?", "question_type": "Regular Text Recognition"}
    rows = [row | {"dataset": "IIIT5K", "answer": ["CENTRE"], "image": picture(1)}]
    rows.append(row | {"dataset": "HME100k", "answer": ["x ^ { 2 }"], "image": picture(2)})
    write_table(folder / "data" / "test-00000-of-00001.parquet", rows)


def realworldqa(folder: Path) -> None:
    instruction = "Please answer directly with only the letter of the correct option and nothing else."
    rows = [
        {"image": picture(1), "question": f"Where to?\n\nA. left\nB. right\n{instruction}", "answer": "B"},
        {
            "image": picture(2),
            "question": "How many? Please answer directly with a single word or number.",
            "answer": "2",
        },
    ]
    write_table(folder / "data" / "test-00000-of-00002.parquet", rows)


def mathvista(folder: Path) -> None:
    query = "Hint: Please provide the correct option letter, e.g., A, B, C, D, at the end.\nQuestion: How long?"
    row = {
        "question": "How long?",
        "image": "images/2.jpg",
        "decoded_image": picture(3),
        "unit": None,
        "precision": None,
    }
    row |= {"query": query, "metadata": {"task": "geometry problem solving", "split": "testmini"}}
    rows = [
        row
        | {
            "pid": "1",
            "choices": ["10", "8.5"],
            "answer": "8.5",
            "question_type": "multi_choice",
            "answer_type": "text",
        },
        row | {"pid": "2", "choices": None, "answer": "1.2", "question_type": "free_form", "answer_type": "float"},
    ]
    write_table(folder / "data" / "testmini-00000-of-00001.parquet", rows)


def mmmu(folder: Path) -> None:
    empty = {f"image_{n}": None for n in range(3, 8)}
    row = {"explanation": "", "img_type": "['Plots']", "topic_difficulty": "Easy", "subfield": "Optics"} | empty
    choice = row | {
        "id": "validation_Physics_1",
        "question": "See <image 1>. Which is it?",
        "question_type": "multiple-choice",
    }
    choice |= {
        "options": "['$2$', 'like <image 2>', 'none']",
        "answer": "B",
        "image_1": picture(1),
        "image_2": picture(2),
    }
    free = row | {
        "id": "validation_Physics_2",
        "question": "How far? <image 1>",
        "question_type": "open",
        "options": "[]",
    }
    free |= {"answer": "['3.5', '3.50 m']", "image_1": picture(4), "image_2": None}
    write_table(folder / "Physics" / "validation-00000-of-00001.parquet", [choice, free])


def blink(folder: Path) -> None:
    for task in ("Jigsaw", "Relative_Depth"):
        rows = [
            {"idx": f"val_{task}_1", "sub_task": task, "question": "Which?", "choices": ["first", "second"]}
            | {"prompt": "Which?\nSelect from the following choices.\n(A) first\n(B) second", "answer": "(B)"}
            | {"image_1": picture(1), "image_2": picture(2), "image_3": None, "image_4": None, "explanation": ""}
        ]
        write_table(folder / task / "val-00000-of-00001.parquet", rows)


def shapes(folder: Path) -> None:
    row = {"video": "clips/036440.mp4", "choices": ["one", "two", "three"], "temporal": True, "type": "flashes"}
    rows = [row | {"id": f"held_out/36440/{n}", "question": "How many flashes?", "answer": "two"} for n in range(2)]
    (folder / "held_out_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (
        *(video_mme, mlvu, long_video_bench, lvbench, mvbench, tempcompass, perception_test, egoschema, next_qa),
        *(activitynet_qa, charades_sta, mme, ai2d, chartqa, docvqa, infovqa, gqa, ocrbench, realworldqa, mathvista),
        *(mmmu, blink, shapes),
    )
} | {"video_mme_subtitles": video_mme}
