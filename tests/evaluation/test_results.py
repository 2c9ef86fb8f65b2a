"""Results files: a round trip, and the name of a bad line."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lightning_apollo.evaluation.metrics import ExactMatch, is_exact_match
from lightning_apollo.evaluation.predictions import Prediction, results
from lightning_apollo.evaluation.results import MODES, QuestionResult, ResultsError, read_results, write_results
from tests.evaluation.shapes_questions import shapes_question
from tests.places import ROOT

RESULT = QuestionResult("shapes", "held_out/7/order", "order", "tiny", "blind", "red, blue", "blue, red", False)
ROW = asdict(RESULT)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    written = [RESULT, replace(RESULT, mode="full", answer="a\nb\u2028c “é”", is_right=True)]
    path = tmp_path / "new" / "results.jsonl"
    write_results(written, path)
    assert read_results(path) == written
    assert [json.loads(line)["mode"] for line in path.read_text().splitlines()] == ["blind", "full"]
    assert [file.name for file in path.parent.iterdir()] == ["results.jsonl"]


def test_lines_of_others_may_be_unescaped_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n" + json.dumps({**ROW, "answer": "a\u2028é"}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_results(path) == [replace(RESULT, answer="a\u2028é")]


def test_the_lines_of_the_guide_are_results(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "evaluation.md").read_text()
    path = tmp_path / "results.jsonl"
    path.write_text(guide.split("```json\n")[1].split("```")[0])
    made = read_results(path)
    assert [result.mode for result in made] == list(MODES)
    assert [result.is_right for result in made] == [is_exact_match(r.answer, r.expected) for r in made]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results([RESULT], path)
    with pytest.raises(ZeroDivisionError):
        write_results((replace(RESULT, answer=str(1 / number)) for number in (1, 0)), path)
    assert read_results(path) == [RESULT]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property"),
        ("[1]", r"keys answer, benchmark, category, expected, is_right, mode, model, question_id$"),
        (json.dumps({**ROW, "seconds": 1}), "keys answer, "),
        (json.dumps({name: ROW[name] for name in ROW if name != "model"}), "keys answer, "),
        (json.dumps({**ROW, "mode": "video"}), r"mode .*full, single_frame, blind.*'video'$"),
        (json.dumps({**ROW, "is_right": "no"}), r"is_right .*bool.*'no'$"),
        (json.dumps({**ROW, "question_id": 7}), r"question_id .*str.*\b7$"),
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(ResultsError) as error:
        read_results(path)
    assert re.match(rf"{re.escape(str(path))}:2: .*{reason}", str(error.value))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("none", "No such file or directory"), (".", "Is a directory"), ("binary", "not UTF-8 text")):
        with pytest.raises(ResultsError) as error:
            read_results(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {reason}: ")


@pytest.mark.parametrize("mode", MODES)
def test_results_of_the_built_in_set_are_right_by_the_metric(mode: str) -> None:
    question = shapes_question("7", "v.mp4", "Which colour came first?", "red", "first_colour", True, ("red", "blue"))
    answers = ("red", " Red ", "blue", "", "red blue")
    made = results([Prediction(question, answer) for answer in answers], "shapes", "tiny", mode)
    assert made[1] == QuestionResult("shapes", "7", "first_colour", "tiny", mode, " Red ", "red", True)
    for result in made:
        metric = ExactMatch()
        metric.update(result.answer, "red")
        assert result.is_right == bool(metric.compute())
    assert [result.is_right for result in made] == [True, True, False, False, False]
