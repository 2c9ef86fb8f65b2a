"""Curation of the built-in set, asked of answerers whose answers are known."""

import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from lightning_apollo.data.shapes.dataset import HELD_OUT_QUESTIONS, ShapesConfig, _held_out_questions
from lightning_apollo.evaluation.curate.choose import Correlation, CurateConfig, correlate_random, curate, tabulate
from lightning_apollo.evaluation.predictions import Prediction, results
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.readers.shapes import SHAPES, is_temporal, shapes
from lightning_apollo.evaluation.results import MODES
from tests.evaluation.hand_table import kept


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("shapes")
    rows = _held_out_questions(ShapesConfig(num_clips=1, num_held_out=40, num_images=8))
    (folder / HELD_OUT_QUESTIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(shapes(folder))


def constant(question: Question) -> str:
    return question.choices[0].text


def chance(question: Question, name: str) -> str:
    return Random(f"{name} {question.question_id}").choice(question.choices).text


def answer(question: Question, name: str, mode: str) -> str:
    """Model 0 sees every clip; 1, 2 and 3 see every second, third and fourth and guess elsewhere."""
    if mode == "blind":
        return constant(question)
    if mode == "single_frame":  # shows what one frame shows
        return chance(question, name) if is_temporal(question) else question.answers[0]
    is_seen = name == "0" or int(question.question_id.split("/")[1]) % (int(name) + 1) == 0
    return question.answers[0] if is_seen else chance(question, name)


def test_of_the_built_in_set_what_needs_the_video_stays(questions: list[Question]) -> None:
    names = "0123"
    answers = [
        result
        for name in names
        for mode in MODES
        for result in results([Prediction(q, answer(q, name, mode)) for q in questions], SHAPES, name, mode)
    ]
    curation = curate(tabulate(answers), CurateConfig(top=40))
    lucky = {q.question_id for q in questions if sum(chance(q, name) == q.answers[0] for name in names) > 2}
    constants = {q.question_id for q in questions if constant(q) == q.answers[0]}
    temporal = {q.question_id for q in questions if is_temporal(q)}
    easy = {q.question_id for q in questions} - temporal
    assert min(len(easy - constants), len(constants & temporal), len((lucky & temporal) - constants)) > 0
    dropped = {
        question.question_id
        for question, is_needed in zip(curation.table.questions, curation.needs_video, strict=True)
        if not is_needed
    }
    assert dropped == constants | easy | (lucky & temporal)
    stays = kept(curation)
    kinds = {q.question_id: q.category for q in questions}
    assert Counter(kinds[name] for name in stays) == dict.fromkeys(
        ("first_colour", "last_colour", "order", "flashes"), 10
    )
    everything = curation.table.scores("full", np.ones(len(questions), dtype=bool))
    chosen = curation.table.scores("full", curation.is_kept)
    assert chosen[0] == everything[0] == 1.0
    assert chosen[1:].mean() < everything[1:].mean()  # what all see, or guess, is gone
    assert curation.entropies[curation.is_kept].mean() > curation.entropies[curation.needs_video].mean()


def test_models_that_all_know_everything_are_not_told_apart(questions: list[Question]) -> None:
    answers = [
        result
        for name in "012"
        for mode in MODES
        for result in results(
            [Prediction(q, q.answers[0] if mode == "full" else "unknown") for q in questions], SHAPES, name, mode
        )
    ]
    curation = curate(tabulate(answers), CurateConfig())
    assert curation.is_kept.all()
    assert not curation.entropies.any()
    assert correlate_random(curation.table, 5) == Correlation(None, None)
