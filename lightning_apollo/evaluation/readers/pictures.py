"""Readers of photograph and multi-image benchmarks (MME, GQA, RealWorldQA, MathVista, MMMU, BLINK).

A reader takes the folder into which the published files were unpacked. Prompts are worded as in VideoLLaMA 3's evaluation
code (evaluation/image in its repository).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question, lettered, listed
from lightning_apollo.evaluation.readers.files import find_files, find_media, read_json, read_parquet
from lightning_apollo.evaluation.readers.prompts import LETTER, WORD_OR_PHRASE
from lightning_apollo.inference.parsers import Choice

MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
YES_OR_NO = "Please answer yes or no."  # the end of MME's published questions
BLINK_CAUTION = (  # BLINK's own prefix to three tasks, for models that decline questions about people
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give your "
    "assessment on this question. You don't need to identify the real people. You just need to analyze based on the "
    "information I gave you.\n\n"
)
BLINK_CAUTIOUS_TASKS = ("Forensic_Detection", "Jigsaw", "Art_Style")
_MMMU_IMAGE = re.compile(r"<image (\d)>")


def mme(folder: Path) -> Iterator[Question]:
    """MME: CATEGORY/ with pictures and texts, or with images/ and questions_answers_YN/ (MME_Benchmark_release_version).

    A text has the name of its picture and two lines "QUESTION Please answer yes or no.<tab>ANSWER", the answer being Yes
    or No. VideoLLaMA 3 puts another instruction in front of that one (evaluation/benchmarks/mme.py).
    """
    for path in find_files(folder, "*/questions_answers_YN/*.txt", "*/*.txt") + _flat_mme(folder):
        category = path.relative_to(folder).parts[0]
        places = (f"{category}/images", category)
        picture = find_media(folder, places, path.stem, ("jpg", "png", "jpeg"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if not line.strip():
                continue
            text, answer = line.strip().split("\t")
            text = text.replace(f" {YES_OR_NO}", f"\n{WORD_OR_PHRASE}")
            yield Question(
                question_id=f"{category}/{path.stem}/{number}",
                parts=(MediaPart("image", picture), TextPart(f"{text}\n{YES_OR_NO}")),
                answers=(answer.strip().lower(),),
                metric="choice",
                choices=(Choice("", "yes"), Choice("", "no")),
                groups=(("category", category), ("part", "cognition" if category in MME_COGNITION else "perception")),
            )


def _flat_mme(folder: Path) -> list[Path]:
    """The texts of categories that keep them beside their pictures, where other categories have folders for them."""
    nested = list(folder.glob("*/questions_answers_YN"))
    return sorted(folder.glob("*/*.txt")) if nested else []


def gqa(folder: Path) -> Iterator[Question]:
    """GQA's balanced test-dev set: testdev_balanced_questions.json and images/ (cs.stanford.edu/people/dorarad/gqa).

    {question id: {question, imageId, answer, types: {structural, semantic, detailed}}}.
    """
    rows = read_json(folder, "testdev_balanced_questions.json", "*/testdev_balanced_questions.json")
    for question_id, row in rows.items():
        path = find_media(folder, ("images", "data/images"), row["imageId"], ("jpg",))
        yield Question(
            question_id=question_id,
            parts=(MediaPart("image", path), TextPart(f"{row['question']}\n{WORD_OR_PHRASE}")),
            answers=(row["answer"],),
            metric="short_answer",
            groups=(("structure", row["types"]["structural"]), ("meaning", row["types"]["semantic"])),
        )


def realworldqa(folder: Path) -> Iterator[Question]:
    """RealWorldQA: data/test-*.parquet (huggingface.co/datasets/xai-org/RealworldQA).

    Columns: image, question, answer. The question has its choices, "A. ..." to a line, and says how to answer; one
    without choices asks for a word or number.
    """
    rows = read_parquet(folder, "data/test-*.parquet", "test-*.parquet", pictures=("image",))
    for number, row in enumerate(rows):
        found = re.findall(r"^([A-Z])\. (.*)$", row["question"], flags=re.MULTILINE)
        choices = tuple(Choice(label, text.strip()) for label, text in found)
        yield Question(
            question_id=str(number),
            parts=(MediaPart("image", row["image"]), TextPart(row["question"].strip())),
            answers=(row["answer"],),
            metric="choice" if choices else "short_answer",
            choices=choices,
            groups=(("question", "choice" if choices else "word or number"),),
        )


def mathvista(folder: Path) -> Iterator[Question]:
    """MathVista testmini, its multiple choice: data/testmini-*.parquet (huggingface.co/datasets/AI4Math/MathVista).

    Columns: pid, question, decoded_image, choices, answer (the text of a choice), question_type, metadata {task}, query
    (the whole prompt). From free answers MathVista has GPT-4 extract a number; those questions are left out.
    """
    rows = read_parquet(folder, "data/testmini-*.parquet", "testmini-*.parquet", pictures=("decoded_image",))
    for row in rows:
        if row["question_type"] != "multi_choice":
            continue
        choices = lettered(row["choices"])
        yield Question(
            question_id=row["pid"],
            parts=(MediaPart("image", row["decoded_image"]), TextPart(row["query"])),
            answers=(choices[row["choices"].index(row["answer"])].label,),
            metric="choice",
            choices=choices,
            groups=(("task", row["metadata"]["task"]),),
        )


def mmmu(folder: Path) -> Iterator[Question]:
    """MMMU's validation set: SUBJECT/validation-*.parquet (huggingface.co/datasets/MMMU/MMMU).

    Columns: id, question, options (a Python list, as text), image_1 to image_7, answer, question_type
    (multiple-choice, open), subfield. "<image 1>" in the text stands for image_1.
    """
    columns = [f"image_{number}" for number in range(1, 8)]
    for path in find_files(folder, "*/validation-*.parquet"):
        subject = path.parent.name
        for row in read_parquet(folder, path.relative_to(folder).as_posix(), pictures=columns):
            options = ast.literal_eval(row["options"])
            is_choice = row["question_type"] == "multiple-choice"
            choices = lettered(options) if is_choice else ()
            body = (
                f"{row['question']}\n\n{listed(choices, '({0}):{1}')}\n{LETTER}"
                if is_choice
                else f"{row['question']}\n\n{WORD_OR_PHRASE}"
            )
            answers = (row["answer"],) if is_choice else _open_answers(row["answer"])
            yield Question(
                question_id=row["id"],
                parts=tuple(_with_images(body, row)),
                answers=answers,
                metric="choice" if is_choice else "open_answer",
                choices=choices,
                groups=(("subject", subject.replace("_", " ")), ("question", row["question_type"])),
            )


def _open_answers(answer: str) -> tuple[str, ...]:
    """The right answers of an open question: one, or a Python list of several, as text."""
    if answer.startswith("["):
        return tuple(map(str, ast.literal_eval(answer)))
    return (answer,)


def _with_images(text: str, row: dict[str, Any]) -> Iterator[TextPart | MediaPart]:
    """The text with each image behind its name, "<image 1>:"; images that it does not name stand in front."""
    pieces = _MMMU_IMAGE.split(text)
    called = set(pieces[1::2])
    for number in range(1, 8):
        path = row.get(f"image_{number}")
        if path is not None and str(number) not in called:
            yield MediaPart("image", path)
    before = pieces[0]
    for number, behind in zip(pieces[1::2], pieces[2::2], strict=True):
        yield TextPart(f"{before}<image {number}>:")
        if row.get(f"image_{number}") is not None:
            yield MediaPart("image", row[f"image_{number}"])
        before = behind
    if before:
        yield TextPart(before)


def blink(folder: Path) -> Iterator[Question]:
    """BLINK's validation set: TASK/val-*.parquet (huggingface.co/datasets/BLINK-Benchmark/BLINK).

    Columns: idx, sub_task, prompt (with its choices), choices, answer ("(A)"), image_1 to image_4. The test set's answers
    are not published.
    """
    columns = [f"image_{number}" for number in range(1, 5)]
    for path in find_files(folder, "*/val-*.parquet"):
        task = path.parent.name
        for row in read_parquet(folder, path.relative_to(folder).as_posix(), pictures=columns):
            caution = BLINK_CAUTION if task in BLINK_CAUTIOUS_TASKS else ""
            images = [MediaPart("image", row[column]) for column in columns if row.get(column) is not None]
            yield Question(
                question_id=row["idx"],
                parts=(*images, TextPart(f"{caution}{row['prompt']}\n{LETTER}")),
                answers=(row["answer"].strip("()"),),
                metric="choice",
                choices=lettered(row["choices"]),
                groups=(("task", task.replace("_", " ")),),
            )
