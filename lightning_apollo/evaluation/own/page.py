"""HTML page about own rows: tables, unusable rows and the worst answers beside their media."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightning_apollo.data.prepare import Preparer
from lightning_apollo.evaluation.answer_files import Answer
from lightning_apollo.evaluation.compare import Comparison
from lightning_apollo.evaluation.curate.report import TextGrid
from lightning_apollo.evaluation.metrics import score_of
from lightning_apollo.evaluation.own.form import TITLES
from lightning_apollo.evaluation.own.run import OwnOutcome
from lightning_apollo.evaluation.own.teacher_forcing import answered_sample, prompt_of
from lightning_apollo.evaluation.question import Question
from lightning_apollo.inspection.text import TextSpan, text_spans
from lightning_apollo.pages.report import FRAME_PIXELS, write_html
from lightning_apollo.structures import MediaError, Sample, VisualItem

NUM_WORST = 20  # answers
MAX_FRAMES = 24  # of one answer, evenly spread where it was shown more
MAX_LISTED = 200  # rows that cannot be used
_JPEG_QUALITY = 90  # of frames that are larger than FRAME_PIXELS; smaller ones are PNG


@dataclass(frozen=True)
class Picture:
    """A frame at the size that the encoder gets."""

    source: str  # a data address
    seconds: float | None  # None for an image


@dataclass(frozen=True)
class WorstAnswer:
    """An answer with everything that led to it."""

    name: str
    metric: str
    score: float
    loss: float | None  # nats a token of the expected answer
    answer: str
    expected: str
    other: str | None  # the answer of the model that is compared
    other_score: float | None
    pictures: tuple[Picture, ...]
    num_frames: int  # shown to the model
    spans: tuple[TextSpan, ...]  # the prompt, token by token
    problem: str = ""  # why it cannot be shown any more


def write_outcome_page(
    path: Path,
    outcome: OwnOutcome,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Comparison] = (),
    other: OwnOutcome | None = None,
) -> None:
    """Write the page. The worst answers are those of the first mode that was asked; their rows are prepared again."""
    unusable = list(dict.fromkeys((name, reason) for name, _, reason in outcome.unusable))
    grids: list[TextGrid] = [table.grid() for table in outcome.tables]
    values = {
        "title": f"{outcome.run.model} on {outcome.rows.title}",
        "remarks": outcome.remarks()[:1],
        "grids": grids,
        "table_remarks": outcome.tables[0].remarks(),
        "comparisons": comparisons,
        "unusable": unusable[:MAX_LISTED],
        "num_unusable": len(unusable),
        "worst": worst_answers(outcome, tokenizer, other),
        "num_answers": outcome.tables[0].scores.rows[0].num_answers,
        "other": other.run.model if other else "",
    }
    write_html(path, files("lightning_apollo.evaluation.own").joinpath("page.html").read_text(), values)


def worst_answers(
    outcome: OwnOutcome, tokenizer: PreTrainedTokenizerBase, other: OwnOutcome | None = None
) -> list[WorstAnswer]:
    """The answers of the first mode with the lowest scores; of equal ones, those whose expected answer was least likely."""
    mode, answers = next(iter(outcome.answers.items()))
    asked = [question for question in outcome.rows.questions if question.question_id in answers]
    scored = [(score_of(answers[q.question_id].answer, q), q) for q in asked]
    scored.sort(key=lambda pair: (pair[0], -(loss_a_token(answers[pair[1].question_id]) or 0.0)))
    preparer = replace(outcome.run.preparer, visuals=mode)
    others = other.answers.get(mode, {}) if other else {}
    return [
        _view(outcome, question, answers[question.question_id], others.get(question.question_id), preparer, tokenizer)
        for _, question in scored[:NUM_WORST]
    ]


def loss_a_token(answer: Answer) -> float | None:
    return answer.loss_sum / answer.num_tokens if answer.loss_sum is not None and answer.num_tokens else None


def _view(
    outcome: OwnOutcome,
    question: Question,
    answer: Answer,
    other: Answer | None,
    preparer: Preparer,
    tokenizer: PreTrainedTokenizerBase,
) -> WorstAnswer:
    rows, prompt, problem = outcome.rows, None, ""
    try:
        prompt = prompt_of(answered_sample(rows.conversations[question.question_id], preparer, rows.root))
    except (MediaError, ValueError) as error:  # the answer is of an earlier run, and its media have changed since
        problem = str(error)
    return WorstAnswer(
        name=question.question_id,
        metric=TITLES[question.metric],
        score=100 * score_of(answer.answer, question),
        loss=loss_a_token(answer),
        answer=answer.answer,
        expected=rows.expected(question),
        other=other and other.answer,
        other_score=100 * score_of(other.answer, question) if other else None,
        pictures=tuple(_pictures(prompt)) if prompt else (),
        num_frames=sum(len(item.frames) for item in prompt.visuals) if prompt else 0,
        spans=tuple(text_spans(prompt, tokenizer, None)) if prompt else (),
        problem=problem,
    )


def _pictures(prompt: Sample) -> list[Picture]:
    frames = [(item, number) for item in prompt.visuals for number in range(len(item.frames))]
    if len(frames) > MAX_FRAMES:
        places = torch.linspace(0, len(frames) - 1, MAX_FRAMES).round().int().tolist()
        frames = [frames[place] for place in places]
    return [_picture(item, number) for item, number in frames]


def _picture(item: VisualItem, number: int) -> Picture:
    seconds = float(item.frames.pts_seconds[number]) if item.modality == "video" else None
    return Picture(_data_address(item.frames.pixels[number]), seconds)


def _data_address(pixels: Tensor) -> str:
    """A frame (3, H, W) uint8 for a page; small ones enlarged by a whole number, without loss."""
    scale = max(1, FRAME_PIXELS // pixels.shape[1])
    pixels = pixels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    kind = "png" if scale > 1 else "jpeg"
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, format=kind, quality=_JPEG_QUALITY)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
