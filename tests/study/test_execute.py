"""One real run: training, questions and no repetition of finished parts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.evaluation.predictions import Prediction
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.runs.explain import count_parameters
from lightning_apollo.study import execute
from lightning_apollo.study.execute import finish, run_one
from lightning_apollo.study.plan import plan_run
from lightning_apollo.study.score import read_score
from lightning_apollo.study.table import StudyError
from tests.evaluation.shapes_questions import shapes_question
from tests.study.test_plan import study, write_study

NAME = "fast.w16.one.s3"


def question(number: int, kind: str, is_temporal: bool) -> Question:
    return shapes_question(str(number), "a.mp4", "?", "red", kind, is_temporal, ("red", "blue"))


KINDS = [("order", True), ("order", True), ("flashes", True), ("border", False)]
PREDICTIONS = [
    Prediction(question(number, *kind), answer)
    for number, (kind, answer) in enumerate(zip(KINDS, ["Red", "blue", "red", "blue"], strict=True))
]


def test_a_run_trains_evaluates_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["study", "run", str(write_study(tmp_path)), "--only", NAME]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    folder = tmp_path / "out" / NAME
    score = json.loads((folder / "score.json").read_text())
    run = plan_run(study(tmp_path), NAME)
    assert (score["run"], score["fingerprint"]) == (NAME, run.fingerprint)
    assert score["llm_parameters"] == count_parameters(run.recipe)["llm"]
    results = read_results(folder / "results.jsonl")
    assert {(result.model, result.mode, result.benchmark) for result in results} == {(NAME, "full", "shapes")}
    kinds = {result.category for result in results}
    assert set(score["scores"]) == kinds | {"temporal"}
    assert len(results) == 2 * len(kinds)  # two held-out clips
    assert score["score"] == score["scores"]["temporal"]
    assert (folder / "videos" / "model.safetensors").is_file()
    written = (folder / "score.json").stat().st_mtime_ns, (folder / "videos" / "done.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert again.output.splitlines()[-1] == f"{NAME}: {score['score']:.3f} (temporal)"
    assert "stage" not in again.output
    assert written == ((folder / "score.json").stat().st_mtime_ns, (folder / "videos" / "done.json").stat().st_mtime_ns)


def test_what_another_recipe_of_the_run_trained_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plan_run(study(tmp_path), NAME)
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(execute, "run_recipe", lambda recipe, **how: calls.append(how))
    monkeypatch.setattr(execute, "answer_held_out", lambda recipe: PREDICTIONS)
    monkeypatch.setattr(execute, "render_study_data", lambda recipe: None)
    for name in ("model.safetensors", "done.json"):
        (run.folder / "videos").mkdir(parents=True, exist_ok=True)
        (run.folder / "videos" / name).write_text("{}")  # of an earlier version
    run_one(run, "order")
    (run.folder / "score.json").unlink()
    (run.folder / "videos" / "model.safetensors").unlink()
    run_one(run, "order")
    assert calls == [{"resume": True, "again": ""}, {"resume": True, "again": None}]
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("; a run of a study does the latter") for line in lines] == [True]


def test_scores_by_hand(tmp_path: Path) -> None:
    run = plan_run(study(tmp_path), NAME)
    run.folder.mkdir(parents=True)
    score = finish(run, "order", PREDICTIONS, 1.234)
    assert score.scores == {"order": 0.5, "flashes": 1.0, "border": 0.0, "temporal": 0.75}
    assert (score.score, score.seconds) == (0.5, 1.2)
    assert read_score(run) == score
    (run.folder / "score.json").write_text("{}")
    with pytest.raises(StudyError, match=r"score\.json: .*version"):
        read_score(run)
