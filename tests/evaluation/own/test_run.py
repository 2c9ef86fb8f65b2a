"""Own rows with stand-in models: scores of an oracle, shares of ranks and stopped runs."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest

from lightning_apollo.evaluation.own.rows import OwnRows
from lightning_apollo.evaluation.own.run import OwnOutcome, evaluate_rows, run_of_rows
from lightning_apollo.evaluation.question import BenchmarkError
from lightning_apollo.evaluation.ranks import ONE_PROCESS, Ranks, join_ranks
from lightning_apollo.evaluation.results import read_results
from lightning_apollo.evaluation.run import EvaluationConfig, EvaluationRun
from tests.evaluation.own.own_files import EXPECTED, Oracle, measure, read, write_own_rows
from tests.evaluation.test_prompting import FRAMES
from tests.launch import launch


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_rows(tmp_path_factory.mktemp("own"))


def run_of(rows: OwnRows, output: Path, modes: tuple[str, ...] = ("full",), limit: int | None = None) -> EvaluationRun:
    config = EvaluationConfig(modes, limit, batch_size=2)
    return run_of_rows(rows, FRAMES, output, "tiny", {"weights": "0123"}, config)


def ask(manifest: Path, output: Path, oracle: Oracle, limit: int | None = None) -> OwnOutcome:
    rows = read(manifest)
    return evaluate_rows(run_of(rows, output, limit=limit), rows, oracle, measure)


def test_an_oracle_scores_100_by_every_metric(manifest: Path, tmp_path: Path) -> None:
    outcome = ask(manifest, tmp_path, Oracle())
    (table,) = outcome.tables
    assert all(row.value == row.low == row.high == 100.0 for row in table.scores.rows)
    names = [row.name for row in table.scores.rows]
    assert names[0] == "all"
    assert {"kind: colour", "kind: story", "modality: video", "modality: text", "scored by: choice"} <= set(names)
    assert set(table.losses) == set(names)
    assert len(read_results(tmp_path / "results.jsonl")) == 7
    said = "6 rows, 7 answers to give; scored by choice 2, token F1 2, time span IoU 1, number 1, exact match 1"
    assert outcome.remarks()[0].startswith(said)
    report = (tmp_path / "report.md").read_text()
    assert "| all | 100.0 | 100.0 to 100.0 | " in report
    assert said in report


def test_a_model_that_knows_nothing_scores_0_and_losses_are_a_token(manifest: Path, tmp_path: Path) -> None:
    (table,) = ask(manifest, tmp_path, Oracle(lambda name: True)).tables
    assert table.scores.rows[0].value == 0.0
    lines = [json.loads(line) for line in (tmp_path / "answers-0.jsonl").read_text().splitlines()]
    sums, counts = ([line[key] for line in lines] for key in ("loss_sum", "num_tokens"))
    loss = table.losses["all"]
    assert loss.value == pytest.approx(sum(sums) / sum(counts))
    assert loss.low <= loss.value <= loss.high
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores[0]["losses"]["all"]["value"] == loss.value


def test_a_stopped_run_asks_what_is_missing_and_a_changed_file_is_refused(manifest: Path, tmp_path: Path) -> None:
    first = Oracle()
    ask(manifest, tmp_path / "out", first, limit=3)
    assert first.asked == list(EXPECTED)[:3]
    rest = Oracle()
    ask(manifest, tmp_path / "out", rest)
    assert rest.asked == list(EXPECTED)[3:]
    rows = read(manifest, "f1")  # another metric scores the answers that are there
    again = Oracle()
    assert evaluate_rows(run_of(rows, tmp_path / "out"), rows, again, measure).tables[0].scores.rows[0].value == 100.0
    assert again.asked == []
    changed = write_own_rows(tmp_path / "changed")
    changed.write_text(changed.read_text().replace("dark blue", "light blue"))
    with pytest.raises(BenchmarkError, match=r"answers.*: data was .*--output"):
        ask(changed, tmp_path / "out", Oracle())


def test_broken_rows_and_media_are_counted_and_listed(tmp_path: Path) -> None:
    manifest = write_own_rows(tmp_path, {"video": "clip.mp4"})
    (tmp_path / "001.png").write_bytes(b"no picture")
    outcome = ask(manifest, tmp_path / "out", Oracle())
    (table,) = outcome.tables
    assert (table.scores.num_questions, table.scores.rows[0].num_answers) == (8, 6)
    assert table.remarks()[0] == "2 of 8 questions have no answer and count for nothing."
    assert [(name, mode) for name, mode, _ in outcome.unusable] == [("val.jsonl:4", "full"), ("val.jsonl:7", "full")]
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine-0.jsonl").read_text().splitlines()]
    assert sorted(line["question_id"] for line in lines) == ["val.jsonl:4", "val.jsonl:7"]
    assert "2 rows or questions cannot be used" in outcome.remarks()[1]
    assert "val.jsonl:4: " in outcome.remarks()[1]


def test_no_row_that_can_be_shown_is_said(tmp_path: Path) -> None:
    manifest = write_own_rows(tmp_path)
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(BenchmarkError, match=r"val.jsonl.*quarantine-\*.jsonl"):
        ask(manifest, tmp_path / "out", Oracle(), limit=2)


def test_every_mode_has_its_table(manifest: Path, tmp_path: Path) -> None:
    rows = read(manifest)
    outcome = evaluate_rows(run_of(rows, tmp_path, ("full", "blind")), rows, Oracle(), None)
    assert [table.scores.mode for table in outcome.tables] == ["full", "blind"]
    assert outcome.tables[0].losses == {}  # none was asked for
    assert outcome.tables[0].grid().head == ("", "score", "95 % interval", "answers")


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is a thread of this process, so that four of them cost no import."""

    barrier: Barrier

    def wait(self) -> None:
        self.barrier.wait(timeout=60)


def ask_as(ranks: Ranks, manifest: Path, output: Path) -> tuple[list[str], str]:
    """Questions of this rank, and its table."""
    oracle = Oracle(lambda name: name.endswith("3"))
    rows = read(manifest)
    outcome = evaluate_rows(run_of(rows, output), rows, oracle, measure, ranks)
    return oracle.asked, outcome.tables[0].grid().markdown()


def ask_on_ranks(manifest: str, output: str) -> None:
    """Leave what this rank was asked, and its table."""
    with join_ranks() as (ranks, _):
        said = ask_as(ranks, Path(manifest), Path(output))
    (Path(output) / f"rank-{ranks.rank}.json").write_text(json.dumps(said))


def in_threads(manifest: Path, output: Path) -> list[tuple[list[str], str]]:
    barrier = Barrier(4)
    with ThreadPoolExecutor(max_workers=4) as threads:
        asked = [threads.submit(ask_as, Thread(rank, 4, barrier), manifest, output) for rank in range(4)]
        return [one.result() for one in asked]


def in_processes(manifest: Path, output: Path) -> list[tuple[list[str], str]]:
    words = (str(manifest), str(output))
    run = launch(4, "tests.evaluation.own.test_run:ask_on_ranks", *words, deadline_seconds=120)
    assert run.returncode == 0, run.stdout
    return [json.loads((output / f"rank-{rank}.json").read_text()) for rank in range(4)]


@pytest.mark.parametrize("start", [in_threads, pytest.param(in_processes, marks=pytest.mark.slow)])
def test_one_and_four_ranks_give_the_same_table(
    start: Callable[[Path, Path], list[tuple[list[str], str]]], manifest: Path, tmp_path: Path
) -> None:
    _, alone = ask_as(ONE_PROCESS, manifest, tmp_path / "one")
    (tmp_path / "four").mkdir()
    said = start(manifest, tmp_path / "four")
    assert sorted(name for asked, _ in said for name in asked) == sorted(EXPECTED)
    assert [len(asked) for asked, _ in said] == [2, 2, 2, 1]
    assert {text for _, text in said} == {alone}
    assert "| all | 85.7 |" in alone
    reports = [(tmp_path / name / "results.jsonl").read_text() for name in ("one", "four")]
    assert reports[0] == reports[1]
