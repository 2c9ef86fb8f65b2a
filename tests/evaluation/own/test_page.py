"""The page about own rows, equal to the model's inputs and loaded from nowhere else."""

import base64
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_apollo.evaluation.compare import compare
from lightning_apollo.evaluation.own import page
from lightning_apollo.evaluation.own.page import loss_a_token, worst_answers, write_outcome_page
from lightning_apollo.evaluation.own.run import OwnOutcome, evaluate_rows, run_of_rows
from lightning_apollo.evaluation.run import EvaluationConfig
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.recipe.conf import conf_folder
from tests.evaluation.own.own_files import Oracle, measure, read, write_own_rows
from tests.evaluation.test_prompting import FRAMES
from tests.small_data import turns

TOKENIZER = load_tokenizer(str(conf_folder() / "model" / "tiny_tokenizer"))
EVIL = {"conversations": turns("<script>alert(1)</script> & more?", "<b>bold</b>"), "answer": "no"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[OwnOutcome]:
    folder = tmp_path_factory.mktemp("own")
    rows = read(write_own_rows(folder, EVIL))
    made = []
    for name, wrong in (("first", "/1"), ("second", "2")):
        run = run_of_rows(rows, FRAMES, folder / name, name, {}, EvaluationConfig())
        made.append(evaluate_rows(run, rows, Oracle(lambda asked, wrong=wrong: asked.endswith(wrong)), measure))
    return made


def test_the_worst_answers_come_first_beside_what_was_shown(outcomes: list[OwnOutcome]) -> None:
    first, second = outcomes
    worst = worst_answers(first, TOKENIZER, second)
    assert len(worst) == 7
    one = worst[0]
    assert (one.name, one.score, one.answer) == ("val.jsonl:6/1", 0.0, "no idea")
    assert one.expected == one.other == "The numbers on the frames go up."
    assert one.other_score == 100.0
    losses = [each.loss or 0.0 for each in worst[1:]]
    assert losses == sorted(losses, reverse=True)  # all of them score 100
    conversation = first.rows.conversations["val.jsonl:6/1"]
    prompt = FRAMES.prompt(conversation, first.rows.root)
    (item,) = prompt.visuals
    assert [picture.seconds for picture in one.pictures] == item.frames.pts_seconds.tolist()
    for picture, pixels in zip(one.pictures, item.frames.pixels, strict=True):
        assert torch.equal(decoded(picture.source, pixels.shape[1]), pixels)
    assert "".join(span.text for span in one.spans).endswith("<|im_start|>assistant↵\n")


def decoded(source: str, height: int) -> torch.Tensor:
    """The frame (3, H, W) of a picture of the page, before it was enlarged."""
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    pixels = torch.from_numpy(np.array(Image.open(BytesIO(base64.b64decode(data))))).permute(2, 0, 1)
    scale = pixels.shape[1] // height
    return pixels[:, ::scale, ::scale]


def test_the_page_is_self_contained_and_escaped(outcomes: list[OwnOutcome], tmp_path: Path) -> None:
    first, second = outcomes
    names = ("first", "second")
    compared = compare(
        first.run.benchmark, first.rows.questions, first.answers["full"], second.answers["full"], names, "full"
    )
    write_outcome_page(tmp_path / "report.html", first, TOKENIZER, [compared], second)
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)=["'](?!data:image/)""", text)
    assert "color-scheme: light dark" in text
    for said in ("first on val.jsonl", "scored by choice 2", "Beside second", compared.remark(), "1 rows or questions"):
        assert said in text
    assert "val.jsonl:7" in text  # the row with a key that is not read
    assert "paired difference of score" in text
    write_outcome_page(tmp_path / "alone.html", first, TOKENIZER)
    assert "Beside" not in (tmp_path / "alone.html").read_text()


def test_long_videos_show_some_of_their_frames(
    outcomes: list[OwnOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_FRAMES", 2)
    worst = worst_answers(outcomes[0], TOKENIZER)
    assert (len(worst[0].pictures), worst[0].num_frames) == (2, 4)
    assert [picture.seconds for picture in worst[0].pictures] == [0.0, 3.0]
    monkeypatch.setattr(page, "FRAME_PIXELS", 1)
    assert worst_answers(outcomes[0], TOKENIZER)[0].pictures[0].source.startswith("data:image/jpeg;base64,")
    write_outcome_page(tmp_path / "report.html", outcomes[0], TOKENIZER)
    assert "2 of the 4 frames that were shown" in (tmp_path / "report.html").read_text()


def test_an_answer_without_a_loss_has_none(outcomes: list[OwnOutcome]) -> None:
    answer = outcomes[0].answers["full"]["val.jsonl:1"]
    assert loss_a_token(answer) == pytest.approx((answer.loss_sum or 0) / (answer.num_tokens or 1))
    assert loss_a_token(replace(answer, loss_sum=None, num_tokens=None)) is None


def test_media_that_are_gone_since_are_said(tmp_path: Path) -> None:
    rows = read(write_own_rows(tmp_path))
    run = run_of_rows(rows, FRAMES, tmp_path / "out", "tiny", {}, EvaluationConfig())
    evaluate_rows(run, rows, Oracle(), measure)
    (tmp_path / "clip.mp4").unlink()
    outcome = evaluate_rows(run, rows, Oracle(), measure)  # asks nothing
    write_outcome_page(tmp_path / "report.html", outcome, TOKENIZER)
    text = (tmp_path / "report.html").read_text()
    assert text.count("cannot be shown now: ") == 4
    assert text.count("<h3>") == 7
