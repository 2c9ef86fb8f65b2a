"""Every benchmark from files in its published form. Prompts, an oracle's score, chance, refusals."""

import random
from pathlib import Path

import pytest

from lightning_apollo.evaluation.figures import ALL, FIGURES
from lightning_apollo.evaluation.metrics import SCORES, score_of
from lightning_apollo.evaluation.paper_rules import Asked, decide
from lightning_apollo.evaluation.question import BenchmarkError, Question
from lightning_apollo.evaluation.registry import BENCHMARKS, find_benchmark
from lightning_apollo.evaluation.table import tabulate_scores
from tests.evaluation.published import WRITERS, mlvu, write_json


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory):
    """The questions of a benchmark, its files being written once."""
    known: dict[str, list[Question]] = {}

    def questions(name: str) -> list[Question]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            WRITERS[name](folder)
            known[name] = BENCHMARKS[name].questions(folder)
        return known[name]

    return questions


def test_every_benchmark_is_tested_here() -> None:
    assert WRITERS.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_oracle_scores_all_and_silence_nothing(name: str, read) -> None:
    benchmark, questions = BENCHMARKS[name], read(name)
    best = {"thousand": 1000.0, "mme": 200.0 * len({q.category for q in questions})}.get(benchmark.headline, 100.0)
    oracle = tabulate_scores(benchmark, questions, {q.question_id: q.answers[-1] for q in questions}, "full")
    assert oracle.rows[0].value == pytest.approx(best)
    assert (oracle.rows[0].low, oracle.rows[0].high) == pytest.approx((best, best))
    silent = tabulate_scores(benchmark, questions, {q.question_id: "" for q in questions}, "full")
    assert {row.value for row in silent.rows} == {0.0}
    assert all(question.metric in SCORES for question in questions)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_oracle_is_right_by_the_papers_rule_too(name: str, read) -> None:
    decisions = [decide(name, question.answers[-1], question) for question in read(name)]
    if name == "activitynet_qa":
        assert all(isinstance(decision, Asked) for decision in decisions)
    else:
        assert set(decisions) == {1.0}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ("shapes",)])
def test_guessing_scores_chance(name: str, read) -> None:
    """Letters drawn at random, against the binomial distribution: 4 standard deviations of the share of right ones."""
    questions = [question for question in read(name) if question.metric == "choice"]
    if not questions:
        assert name in ("activitynet_qa", "charades_sta", "chartqa", "docvqa", "infovqa", "gqa", "ocrbench")
        return
    guess, num_rounds = random.Random(0), 200
    rounds = [
        score_of(choice.label or choice.text, question)
        for question in questions
        for choice in guess.choices(question.choices, k=num_rounds)
    ]
    shares = [1 / len(question.choices) for question in questions]
    chance = sum(shares) / len(shares)
    deviation = sum(share * (1 - share) * num_rounds for share in shares) ** 0.5 / len(rounds)
    assert sum(rounds) / len(rounds) == pytest.approx(chance, abs=4 * deviation)


def test_an_unknown_benchmark_names_its_neighbour() -> None:
    with pytest.raises(BenchmarkError, match=r"\bmvbnch\b.*\bmvbench\b"):
        find_benchmark("mvbnch")
    assert find_benchmark("gqa") is BENCHMARKS["gqa"]


def test_figures_belong_to_rows_that_are_there(read) -> None:
    assert FIGURES.keys() == BENCHMARKS.keys() - {"shapes"}
    for name, figures in FIGURES.items():
        questions = read(name)
        table = tabulate_scores(BENCHMARKS[name], questions, {q.question_id: "" for q in questions}, "full")
        assert {figure.row for figure in figures} <= {row.name for row in table.rows}, name
        assert ALL in {figure.row for figure in figures}


def test_the_limit_takes_the_first(tmp_path: Path) -> None:
    mlvu(tmp_path)
    every = BENCHMARKS["mlvu"].questions(tmp_path)
    assert len(every) == 14
    assert BENCHMARKS["mlvu"].questions(tmp_path, 3) == every[:3]


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["egoschema"]
    with pytest.raises(BenchmarkError, match=r"folder:.*EgoSchema"):
        benchmark.questions(tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match=r"subset_answers\.json.*\*/subset_answers\.json"):
        benchmark.questions(tmp_path)
    write_json(tmp_path / "subset_answers.json", {"u": 0})
    write_json(tmp_path / "questions.json", [])
    with pytest.raises(BenchmarkError, match="question of EgoSchema"):
        benchmark.questions(tmp_path)
    row = {"q_uid": "u", "question": "?"} | {f"option {n}": "x" for n in range(4)}
    write_json(tmp_path / "questions.json", [row])
    with pytest.raises(BenchmarkError, match=r"EgoSchema.*'option 4'"):
        benchmark.questions(tmp_path)
    write_json(tmp_path / "questions.json", [row | {"option 4": "y"}] * 2)
    with pytest.raises(BenchmarkError, match=r"two questions.*\bu\b"):
        benchmark.questions(tmp_path)
    (tmp_path / "questions.json").write_text("[{")
    with pytest.raises(BenchmarkError, match=r"questions\.json: Expecting"):
        benchmark.questions(tmp_path)


@pytest.mark.parametrize("path", ["../../secret.mp4", "/etc/passwd"])
def test_media_stay_in_the_folder(path: str, tmp_path: Path) -> None:
    mlvu(tmp_path)
    row = {"video": path, "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "json" / "1_plotQA.json", [row])
    with pytest.raises(BenchmarkError, match=r"shows.*folder"):
        BENCHMARKS["mlvu"].questions(tmp_path)
