"""Readers of document and chart benchmarks (ChartQA, DocVQA, InfoVQA, OCRBench, AI2D).

A reader takes the folder into which the published files were unpacked. Prompts are worded as in VideoLLaMA 3's evaluation
code (evaluation/image in its repository).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question, lettered
from lightning_apollo.evaluation.readers.files import find_media, read_json, read_parquet
from lightning_apollo.evaluation.readers.prompts import WORD_OR_PHRASE, with_letters

SINGLE_WORD = (
    "Answer the question with a single word or phrase."  # as VideoLLaMA 3 words it for DocVQA, InfoVQA and OCRBench
)
PICTURE_ENDINGS = ("png", "jpg", "jpeg")


def chartqa(folder: Path) -> Iterator[Question]:
    """ChartQA: test/test_human.json, test/test_augmented.json, test/png/ (github.com/vis-nlp/ChartQA).

    A file is a list of {imgname, query, label}.
    """
    for part in ("human", "augmented"):
        patterns = (f"test/test_{part}.json", f"*/test/test_{part}.json", f"test_{part}.json")
        for number, row in enumerate(read_json(folder, *patterns)):
            path = find_media(folder, ("test/png", "ChartQA Dataset/test/png", "png"), row["imgname"], PICTURE_ENDINGS)
            yield Question(
                question_id=f"{part}/{number}",
                parts=(MediaPart("image", path), TextPart(f"{row['query']}\n{WORD_OR_PHRASE}")),
                answers=(str(row["label"]),),
                metric="relaxed",
                groups=(("part", part),),
            )


def docvqa(folder: Path) -> Iterator[Question]:
    """DocVQA's validation set: val_v1.0*.json and documents/ (rrc.cvc.uab.es, task 1).

    {data: [{questionId, question, image ("documents/..."), answers, question_types}]}; older files have no types.
    """
    for row in read_json(folder, "val_v1.0*.json", "*/val_v1.0*.json")["data"]:
        places = (".", "spdocvqa_images", "images")
        path = find_media(folder, places, row["image"], PICTURE_ENDINGS)
        if not (folder / path).is_file():
            path = find_media(folder, ("documents", *places), Path(row["image"]).name, PICTURE_ENDINGS)
        yield Question(
            question_id=str(row["questionId"]),
            parts=(MediaPart("image", path), TextPart(f"{row['question']}\n{SINGLE_WORD}")),
            answers=tuple(row["answers"]),
            metric="anls",
            groups=tuple(("question", kind) for kind in row.get("question_types", ())),
        )


def infovqa(folder: Path) -> Iterator[Question]:
    """InfographicVQA's validation set: infographicsVQA_val_v1.0*.json and its images (rrc.cvc.uab.es, task 3).

    {data: [{questionId, question, image_local_name, answers, answer_type}]}.
    """
    names = ("infographicsVQA_val_v1.0*.json", "*/infographicsVQA_val_v1.0*.json")
    for row in read_json(folder, *names)["data"]:
        places = ("images", "infographicsvqa_images", "infographicsVQA_val_v1.0_images")
        yield Question(
            question_id=str(row["questionId"]),
            parts=(
                MediaPart("image", find_media(folder, places, row["image_local_name"], PICTURE_ENDINGS)),
                TextPart(f"{row['question']}\n{SINGLE_WORD}"),
            ),
            answers=tuple(row["answers"]),
            metric="anls",
            groups=tuple(("answer", kind) for kind in row.get("answer_type", ())),
        )


def ocrbench(folder: Path) -> Iterator[Question]:
    """OCRBench: data/test-*.parquet (huggingface.co/datasets/echo840/OCRBench).

    Columns: dataset, question, question_type, answer (list), image.
    """
    rows = read_parquet(folder, "data/test-*.parquet", "test-*.parquet", pictures=("image",))
    for number, row in enumerate(rows):
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        yield Question(
            question_id=str(number),
            parts=(MediaPart("image", row["image"]), TextPart(f"{row['question']}\n{SINGLE_WORD}")),
            answers=tuple(map(str, answers)),
            metric="contains_formula" if row["dataset"] == "HME100k" else "contains",
            groups=(("question", row["question_type"]),),
        )


def ai2d(folder: Path) -> Iterator[Question]:
    """AI2D's test set: data/test-*.parquet (huggingface.co/datasets/lmms-lab/ai2d).

    Columns: question, options (list), answer (number, as text), image.
    """
    rows = read_parquet(folder, "data/test-*.parquet", "test-*.parquet", pictures=("image",))
    for number, row in enumerate(rows):
        choices = lettered(row["options"])
        yield Question(
            question_id=str(number),
            parts=(MediaPart("image", row["image"]), TextPart(with_letters(row["question"], choices))),
            answers=(choices[int(row["answer"])].label,),
            metric="choice",
            choices=choices,
        )
