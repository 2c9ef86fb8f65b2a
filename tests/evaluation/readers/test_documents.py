from pathlib import Path

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.readers import documents
from tests.evaluation import published


def test_chartqa(tmp_path: Path) -> None:
    published.chartqa(tmp_path)
    human, augmented = documents.chartqa(tmp_path)
    assert human.parts == (
        MediaPart("image", "ChartQA Dataset/test/png/human.png"),
        TextPart("How many bars?\nAnswer the question using a single word or phrase."),
    )
    assert (human.answers, human.metric, human.groups) == (("14",), "relaxed", (("part", "human"),))
    assert augmented.answers == ("Yes",)


def test_docvqa_and_infovqa_have_several_answers_and_kinds(tmp_path: Path) -> None:
    published.docvqa(tmp_path)
    published.infovqa(tmp_path)
    (page,) = documents.docvqa(tmp_path)
    assert page.parts == (
        MediaPart("image", "documents/pybv0228_81.png"),
        TextPart("Whose name?\nAnswer the question with a single word or phrase."),
    )
    assert (page.answers, page.metric) == (("T.F. Riehl", "TF Riehl"), "anls")
    assert page.groups == (("question", "handwritten"), ("question", "form"))
    (graphic,) = documents.infovqa(tmp_path)
    assert (graphic.question_id, graphic.scene, graphic.answers) == ("98313", "images/20471.jpeg", ("pinterest",))


def test_ocrbench_judges_formulas_otherwise(tmp_path: Path) -> None:
    published.ocrbench(tmp_path)
    word, formula = documents.ocrbench(tmp_path)
    assert (word.metric, word.answers) == ("contains", ("CENTRE",))
    assert (formula.metric, formula.answers) == ("contains_formula", ("x ^ { 2 }",))


def test_ai2d_and_its_pictures(tmp_path: Path) -> None:
    """The pictures are written as they were in the Parquet file, byte for byte, and once."""
    published.ai2d(tmp_path)
    first, second = documents.ai2d(tmp_path)
    assert (first.answers, second.answers) == (("C",), ("D",))
    assert first.parts[1] == TextPart(
        "Which eats which?\nA. hawk\nB. mouse\nC. grass\nD. sun\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (tmp_path / first.scene).read_bytes() == published.picture(2)["bytes"]
    assert (tmp_path / second.scene).read_bytes() == published.picture(3)["bytes"]
    written = (tmp_path / first.scene).stat().st_mtime_ns
    assert next(documents.ai2d(tmp_path)).scene == first.scene
    assert (tmp_path / first.scene).stat().st_mtime_ns == written
