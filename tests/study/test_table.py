"""Tables of scores: the paper's form, errors and missing cells."""

import re
from pathlib import Path

import numpy as np
import pytest

from lightning_apollo.study.table import RunScore, StudyError, StudyTable, parse_size, read_table
from tests.study.tables import PUBLISHED, score_table


def test_the_published_table_is_read_smallest_size_first() -> None:
    table = read_table(PUBLISHED)
    assert dict(table.sizes) == {"0.5B": 0.5e9, "1.5B": 1.5e9, "4B": 4e9, "7B": 7e9}
    assert (len(table.scores), len(table.variants), set(table.factors)) == (84, 21, {"mixture", "design"})
    place = table.variants.index("B/3")
    assert table.means[place, :, 0].tolist() == [37.36, 45.73, 46.76, 50.91]
    assert (table.levels("mixture")[place], table.levels("design")[place]) == ("B", "3")


def test_means_are_over_the_seeds_that_are_there() -> None:
    scores = (RunScore("a", "s", "d", 0, 1.0), RunScore("a", "s", "d", 4, 2.0), RunScore("b", "s", "d", 4, 5.0))
    table = StudyTable(scores, ("a", "b", "c"), {"s": 1.0}, {"d": 1.0}, {})
    np.testing.assert_array_equal(table.grid[:, 0, 0], [[1.0, 2.0], [np.nan, 5.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(table.means[:, 0, 0], [1.5, 5.0, np.nan])


@pytest.mark.parametrize(("text", "number"), [("0.5B", 5e8), ("64M", 6.4e7), ("64K", 64e3), ("750", 750.0)])
def test_a_size_is_a_number(text: str, number: float) -> None:
    assert parse_size(text, "") == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixture,design,llm\nA,1,7B\n", r"columns .*design, llm, score.*factors"),
        ("design,llm,score\n1,7B,1\n", r"columns .*design, llm, score.*factors"),
        ("", r"columns .*design, llm, score.*mixture.* none$"),
        ("mixture,design,llm,score\n", "rows"),
        ("mixture,design,llm,score\nA,1,7B,good\n", "line 2: score: 'good'"),
        ("mixture,design,llm,score\nA,1,7B,nan\n", "line 2: score: 'nan'"),
        ("mixture,design,llm,score\nA,1,7B\n", r"line 2: .*column"),
        ("mixture,design,llm,score\nA,1,7B,1,2\n", r"line 2: .*column"),
        (
            "mixture,design,llm,score\nA,1,large,1\n",
            r"llm: 'large' .*0\.5B.*64M",
        ),
        ("mixture,design,llm,score\nA,1,7B,1\nA,1,7B,2\n", r"line 3: A/1 .*7B .*line 2\b"),
        ("mixture,design,llm,score\nA,1,0.5B,1\nA,1,500M,2\n", r"size .*\b0\.5B .*500M "),
    ],
)
def test_a_wrong_table_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        read_table(path)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"none\.csv: .*file"):
        read_table(tmp_path / "none.csv")


def test_sizes_ascend() -> None:
    table = score_table({"s": [1.0], "l": [2.0]})
    with pytest.raises(StudyError, match=r"size.*\bl 5, s 5\b"):
        StudyTable(table.scores, table.variants, {"l": 5.0, "s": 5.0}, table.data, {})
