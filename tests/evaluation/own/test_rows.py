"""Own rows as questions: turns before each answer, forms and broken rows."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_apollo.data.annotations.manifest import ManifestError
from lightning_apollo.evaluation.own.rows import OwnRowsConfig, read_own_rows
from lightning_apollo.evaluation.question import BenchmarkError
from tests.evaluation.own.own_files import EXPECTED, ROWS, read, write_own_rows
from tests.small_data import turns, write_rows


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_rows(tmp_path_factory.mktemp("own"))


def test_every_answer_is_a_question_given_the_turns_before_it(manifest: Path) -> None:
    rows = read(manifest)
    assert {q.question_id: rows.expected(q) for q in rows.questions} == EXPECTED
    assert (rows.num_rows, rows.broken, rows.title) == (6, (), "val.jsonl")
    second = rows.conversations["val.jsonl:6/2"]
    assert [(turn.role, turn.is_learnt) for turn in second.messages] == [
        ("user", True),
        ("assistant", False),
        ("user", True),
        ("assistant", True),
    ]
    assert rows.questions[-1].scene == "clip.mp4"  # drawn together with the other rows about this clip
    assert len(rows.conversations["val.jsonl:6/1"].messages) == 2


def test_forms_and_kinds(manifest: Path) -> None:
    found = {q.question_id: (q.metric, dict(q.groups)) for q in read(manifest).questions}
    assert {name: metric for name, (metric, _) in found.items()} == {
        "val.jsonl:1": "choice",
        "val.jsonl:2": "span_overlap",
        "val.jsonl:3": "number",
        "val.jsonl:4": "choice",
        "val.jsonl:5": "exact_text",
        "val.jsonl:6/1": "token_f1",
        "val.jsonl:6/2": "token_f1",
    }
    assert found["val.jsonl:4"][1] == {"kind": "colour", "modality": "image", "scored by": "choice"}  # one source only
    assert found["val.jsonl:5"][1]["modality"] == "text"


def test_the_metric_that_is_asked_for_scores_all(manifest: Path, tmp_path: Path) -> None:
    assert {q.metric for q in read(manifest, "f1").questions} == {"token_f1"}
    with pytest.raises(BenchmarkError, match=r"val.jsonl:2: --metric.*'From 1.0"):
        read(write_rows(tmp_path / "val.jsonl", [ROWS[2], ROWS[1]]), "number")


def test_answers_that_are_not_learnt_are_context(tmp_path: Path) -> None:
    first, second = turns("One?", "first answer"), turns("Two?", "second answer")
    manifest = write_rows(tmp_path / "val.jsonl", [{"conversations": [first[0], {**first[1], "loss": False}, *second]}])
    rows = read(manifest)
    assert [(q.question_id, rows.expected(q)) for q in rows.questions] == [("val.jsonl:1", "second answer")]


def test_broken_rows_are_listed_and_the_others_stay(tmp_path: Path) -> None:
    manifest = write_own_rows(
        tmp_path, {"conversations": turns("Where?", "here"), "answer": "here"}, {"video": "clip.mp4"}
    )
    manifest.write_text(manifest.read_text() + "{broken\n")
    rows = read(manifest)
    assert len(rows.questions) == len(EXPECTED)
    assert rows.num_rows == 9
    assert [row.row_id for row in rows.broken] == ["val.jsonl:7", "val.jsonl:8", "val.jsonl:9"]
    assert "'answer' is not read" in rows.broken[0].reason
    config = OwnRowsConfig((str(manifest),), str(tmp_path), unknown_keys="ignore")
    assert [row.row_id for row in read_own_rows(config).broken] == ["val.jsonl:8", "val.jsonl:9"]


def test_nothing_to_ask_is_said(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "val.jsonl", [{"video": "clip.mp4"}])
    with pytest.raises(BenchmarkError, match=r"val\.jsonl: .*\b1 broken.*turns"):
        read(manifest)
    with pytest.raises(ManifestError, match=r"manifest$"):
        read(tmp_path / "gone.jsonl")


def test_other_formats_give_the_same_questions(manifest: Path, tmp_path: Path) -> None:
    """A JSON list, and a table of chat turns, whose kind is a column."""
    (tmp_path / "val.json").write_text(json.dumps(ROWS))
    chat = [
        [
            {"role": "user" if turn["from"] == "human" else "assistant", "content": turn["value"]}
            for turn in row["conversations"]
        ]
        for row in ROWS
    ]
    columns = {"messages": chat, "kind": [row["category"] for row in ROWS]}
    columns |= {key: [row.get(key) for row in ROWS] for key in ("image", "video")}
    parquet.write_table(pa.table(columns), tmp_path / "val.parquet")
    wanted = read(manifest)
    for name in ("val.json", "val.parquet"):
        found = read_own_rows(OwnRowsConfig((str(tmp_path / name),), str(manifest.parent)))
        assert found.broken == ()
        for question, other in zip(found.questions, wanted.questions, strict=True):
            assert (question.answers, question.metric, question.groups) == (other.answers, other.metric, other.groups)
            assert question.parts == other.parts


def test_several_files_are_several_sources(manifest: Path, tmp_path: Path) -> None:
    more = write_rows(tmp_path / "more.jsonl", [{"conversations": turns("Name one.", "red")}])
    both = read_own_rows(OwnRowsConfig((str(manifest), str(more)), str(manifest.parent)))
    assert both.title == "val.jsonl, more.jsonl"
    assert [dict(q.groups)["source"] for q in both.questions] == ["val.jsonl"] * 7 + ["more.jsonl"]
    (tmp_path / "val.jsonl").write_bytes(more.read_bytes())
    alike = read_own_rows(OwnRowsConfig((str(manifest), str(tmp_path / "val.jsonl")), str(manifest.parent)))
    assert alike.questions[-1].question_id == f"{tmp_path / 'val.jsonl'}:1"  # names that are not unique are paths


def test_the_digest_is_that_of_the_content(manifest: Path, tmp_path: Path) -> None:
    copy = tmp_path / "val.jsonl"
    copy.write_bytes(manifest.read_bytes())
    config = OwnRowsConfig((str(manifest),), str(manifest.parent))
    assert read_own_rows(replace(config, manifests=(str(copy),))).digest == read_own_rows(config).digest
    copy.write_text(copy.read_text().replace("dark blue", "light blue"))
    assert read_own_rows(replace(config, manifests=(str(copy),))).digest != read_own_rows(config).digest
