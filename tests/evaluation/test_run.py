"""Evaluation runs that are killed, repeated or shared by ranks. Every question is answered once and counted."""

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_apollo.evaluation.question import BenchmarkError
from lightning_apollo.evaluation.ranks import join_ranks
from lightning_apollo.evaluation.registry import BENCHMARKS
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.evaluation.run import Answerer, EvaluationConfig, EvaluationRun, evaluate
from lightning_apollo.structures import Sample
from tests.evaluation import published
from tests.evaluation.test_prompting import FRAMES
from tests.launch import launch
from tests.small_data import with_settings

MME = BENCHMARKS["mme"]  # 8 questions: two about each of four images, in two categories; the answers are yes, no


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mme")
    published.mme(folder)
    return folder


def run_of(
    folder: Path, output: Path, modes: tuple[str, ...] = ("full",), limit: int | None = None, batch_size: int = 3
) -> EvaluationRun:
    return EvaluationRun(
        MME, folder, output, "tiny", FRAMES, {"weights": "0123"}, EvaluationConfig(modes, limit, batch_size)
    )


class Oracle:
    """Answer rightly, and keep the ids of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Sequence[Sample]) -> list[str]:
        self.asked += [prompt.sample_id for prompt in prompts]
        return ["Yes" if prompt.sample_id.endswith("/0") else "No." for prompt in prompts]


def answered(output: Path) -> Counter[str]:
    """Number of answers of each question on the disk."""
    lines = [line for path in output.glob("answers-*.jsonl") for line in path.read_text().splitlines()]
    return Counter(json.loads(line)["question_id"] for line in lines)


IDS = {f"{category}/000{image}/{n}" for category in ("artwork", "code_reasoning") for image in (0, 1) for n in (0, 1)}


def test_an_oracle_from_files_to_table(folder: Path, tmp_path: Path) -> None:
    oracle, seen = Oracle(), []
    (table,) = evaluate(run_of(folder, tmp_path), oracle, advance=lambda done, total: seen.append((done, total)))
    assert (table.rows[0].value, table.num_questions) == (400.0, 8)
    assert seen == [(0, 8), (3, 8), (6, 8), (8, 8)]
    assert set(oracle.asked) == IDS
    results = read_results(tmp_path / "results.jsonl")  # what `evaluate curate` reads
    assert len(results) == 8
    assert all(result.is_right and result.model == "tiny" and result.mode == "full" for result in results)
    assert json.loads((tmp_path / "scores.json").read_text())[0]["rows"][0]["value"] == 400.0
    assert "| all | 400.0 | 400.0 to 400.0 | 8 | 1901 | 2102 |" in (tmp_path / "report.md").read_text()


def test_a_repeated_run_asks_nothing(folder: Path, tmp_path: Path) -> None:
    first = evaluate(run_of(folder, tmp_path), Oracle())
    again = Oracle()
    assert evaluate(run_of(folder, tmp_path), again) == first
    assert again.asked == []


def test_limits_and_modes_add_up(folder: Path, tmp_path: Path) -> None:
    oracle = Oracle()
    evaluate(run_of(folder, tmp_path, limit=3), oracle)
    assert len(oracle.asked) == 3
    tables = evaluate(run_of(folder, tmp_path, modes=("full", "blind")), oracle)
    assert [(table.mode, table.rows[0].num_answers) for table in tables] == [("full", 8), ("blind", 8)]
    assert len(oracle.asked) == 16
    assert Counter(result.mode for result in read_results(tmp_path / "results.jsonl")) == {"full": 8, "blind": 8}
    assert len(evaluate(run_of(folder, tmp_path), oracle)) == 2  # what is there stays


def killed(folder: str, output: str) -> None:
    """Ask, and die of SIGKILL within its third batch, as an answer is half written."""
    oracle = Oracle()

    def answer(prompts: Sequence[Sample]) -> list[str]:
        if len(oracle.asked) == 6:
            with (Path(output) / "answers-0.jsonl").open("a") as file:
                file.write('{"question_id": "code_rea')
            os.kill(os.getpid(), signal.SIGKILL)
        return oracle(prompts)

    evaluate(run_of(Path(folder), Path(output)), answer)


def test_a_killed_run_resumes_where_it_was(folder: Path, tmp_path: Path) -> None:
    died = launch(1, "tests.evaluation.test_run:killed", str(folder), str(tmp_path), deadline_seconds=120)
    assert died.returncode == 128 + signal.SIGKILL, died.stdout
    *whole, half = (tmp_path / "answers-0.jsonl").read_text().split("\n")
    assert (len(whole), half) == (6, '{"question_id": "code_rea')
    oracle = Oracle()
    (table,) = evaluate(run_of(folder, tmp_path), oracle)
    assert len(oracle.asked) == 2
    assert table.rows[0].value == 400.0
    assert answered(tmp_path) == dict.fromkeys(IDS, 1)


def ask_on_ranks(folder: str, output: str) -> None:
    """Leave what this rank was asked and what it found."""
    oracle = Oracle()
    with join_ranks() as (ranks, _):
        (table,) = evaluate(run_of(Path(folder), Path(output)), oracle, ranks)
    (Path(output) / f"rank-{ranks.rank}.json").write_text(json.dumps([oracle.asked, table.rows[0].value]))


def test_ranks_share_the_questions_and_another_number_of_them_resumes(folder: Path, tmp_path: Path) -> None:
    evaluate(run_of(folder, tmp_path, limit=3), Oracle())
    run = launch(2, "tests.evaluation.test_run:ask_on_ranks", str(folder), str(tmp_path), deadline_seconds=120)
    assert run.returncode == 0, run.stdout
    said = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [len(asked) for asked, _ in said] == [3, 2]
    assert [value for _, value in said] == [400.0, 400.0]
    assert answered(tmp_path) == dict.fromkeys(IDS, 1)
    last = Oracle()
    evaluate(run_of(folder, tmp_path), last)
    assert last.asked == []


def test_unreadable_media_are_listed_counted_and_tried_again(tmp_path: Path) -> None:
    published.mme(tmp_path / "mme")
    picture = tmp_path / "mme" / "artwork" / "images" / "0001.png"
    good = picture.read_bytes()
    picture.write_bytes(b"no picture")
    (table,) = evaluate(run_of(tmp_path / "mme", tmp_path / "out"), Oracle())
    assert (table.rows[0].num_answers, table.rows[0].value) == (6, 400.0)
    assert table.remarks()[0] == "2 of 8 questions have no answer and count for nothing."
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine-0.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == ["artwork/0001/0", "artwork/0001/1"]
    assert all("0001.png: not a picture" in row["reason"] for row in rows)
    picture.write_bytes(good)
    oracle = Oracle()
    (table,) = evaluate(run_of(tmp_path / "mme", tmp_path / "out"), oracle)
    assert len(oracle.asked) == 2
    assert table.rows[0].num_answers == 8
    assert (tmp_path / "out" / "quarantine-0.jsonl").read_text() == ""


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    published.mme(tmp_path / "mme")
    for path in (tmp_path / "mme").glob("**/*.png"):
        path.unlink()
    with pytest.raises(BenchmarkError, match=r"MME.*quarantine-\*.jsonl"):
        evaluate(run_of(tmp_path / "mme", tmp_path / "out"), Oracle())


def test_answers_of_other_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path)
    evaluate(run, Oracle())
    with pytest.raises(BenchmarkError, match=r"0123.*4567.*--output"):
        evaluate(replace(run, settings={"weights": "4567"}), Oracle())
    smaller = with_settings(FRAMES, budget=replace(FRAMES.settings.budget, token_budget=32))
    with pytest.raises(BenchmarkError, match=r"answers.*: budget was "):
        evaluate(replace(run, preparer=smaller), Oracle())


def test_answers_to_other_words_are_refused(tmp_path: Path) -> None:
    published.mme(tmp_path / "mme")
    evaluate(run_of(tmp_path / "mme", tmp_path / "out"), Oracle())
    text = tmp_path / "mme" / "code_reasoning" / "0001.txt"
    text.write_text(text.read_text().replace("blue", "green"))
    with pytest.raises(BenchmarkError, match=r"words.*code_reasoning/0001/1\b"):
        evaluate(run_of(tmp_path / "mme", tmp_path / "out"), Oracle())


def test_a_second_answer_is_refused(folder: Path, tmp_path: Path) -> None:
    evaluate(run_of(folder, tmp_path), Oracle())
    first = (tmp_path / "answers-0.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "answers-1.jsonl").write_text(first)
    with pytest.raises(BenchmarkError, match=r"answers-1\.jsonl:1: .*artwork/0000/0\b"):
        evaluate(run_of(folder, tmp_path), Oracle())
    (tmp_path / "answers-1.jsonl").write_text("{}\n")
    with pytest.raises(BenchmarkError, match=r"answers-1\.jsonl:1: .*answer"):
        evaluate(run_of(folder, tmp_path), Oracle())


def test_two_runs_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    def answer(prompts: Sequence[Sample]) -> list[str]:
        with pytest.raises(BenchmarkError, match=r"run.*--output"):
            evaluate(run_of(folder, tmp_path), Oracle())
        return Oracle()(prompts)

    evaluate(run_of(folder, tmp_path), answer)
    assert answered(tmp_path) == dict.fromkeys(IDS, 1)


def test_every_mode_sees_what_it_may(folder: Path, tmp_path: Path) -> None:
    shown: dict[str, set[int]] = {}

    def watch(prompts: Sequence[Sample]) -> list[str]:
        shown.setdefault(str(len(shown)), set()).update(len(prompt.visuals) for prompt in prompts)
        return Oracle()(prompts)

    asking: Answerer = watch
    evaluate(run_of(folder, tmp_path, modes=("full", "single_frame", "blind"), batch_size=8), asking)
    assert list(shown.values()) == [{1}, {1}, {0}]


@pytest.mark.parametrize("modes", [("whole",), (), ("full", "full")])
def test_modes_must_be_known(modes: tuple[str, ...]) -> None:
    with pytest.raises(BenchmarkError, match="full, single_frame, blind"):
        EvaluationConfig(modes)
