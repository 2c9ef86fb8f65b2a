from pathlib import Path

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.readers import pictures
from lightning_apollo.inference.parsers import Choice
from tests.evaluation import published


def test_mme_in_both_layouts(tmp_path: Path) -> None:
    published.mme(tmp_path)
    questions = list(pictures.mme(tmp_path))
    assert [question.question_id for question in questions] == [
        *("artwork/0000/0", "artwork/0000/1", "artwork/0001/0", "artwork/0001/1"),
        *("code_reasoning/0000/0", "code_reasoning/0000/1", "code_reasoning/0001/0", "code_reasoning/0001/1"),
    ]
    assert [question.answers[0] for question in questions] == ["yes", "no"] * 4
    assert questions[0].parts == (
        MediaPart("image", "artwork/images/0000.png"),
        TextPart("Is it red?\nAnswer the question using a single word or phrase.\nPlease answer yes or no."),
    )
    assert questions[-1].scene == "code_reasoning/0001.png"
    assert questions[0].groups == (("category", "artwork"), ("part", "perception"))
    assert questions[-1].groups == (("category", "code_reasoning"), ("part", "cognition"))


def test_gqa(tmp_path: Path) -> None:
    published.gqa(tmp_path)
    first, second = pictures.gqa(tmp_path)
    assert (first.question_id, first.scene, first.answers) == ("201307251", "images/n161313.jpg", ("yes",))
    assert first.groups == (("structure", "verify"), ("meaning", "attr"))
    assert second.category == "query"


def test_realworldqa_with_and_without_choices(tmp_path: Path) -> None:
    published.realworldqa(tmp_path)
    choice, free = pictures.realworldqa(tmp_path)
    assert (choice.metric, choice.choices) == ("choice", (Choice("A", "left"), Choice("B", "right")))
    assert (free.metric, free.choices, free.answers) == ("short_answer", (), ("2",))


def test_mathvista_without_free_answers(tmp_path: Path) -> None:
    published.mathvista(tmp_path)
    (question,) = pictures.mathvista(tmp_path)
    assert (question.question_id, question.answers) == ("1", ("B",))
    assert question.category == "geometry problem solving"
    assert (tmp_path / question.scene).is_file()


def test_mmmu_shows_images_where_the_text_calls_for_them(tmp_path: Path) -> None:
    published.mmmu(tmp_path)
    choice, free = pictures.mmmu(tmp_path)
    first, second = choice.media
    assert choice.parts == (
        TextPart("See <image 1>:"),
        first,
        TextPart(". Which is it?\n\n(A):$2$\n(B):like <image 2>:"),
        second,
        TextPart("\n(C):none\n\nAnswer with the option's letter from the given choices directly."),
    )
    assert (tmp_path / second.path).read_bytes() == published.picture(2)["bytes"]
    assert (choice.metric, choice.answers) == ("choice", ("B",))
    assert (free.metric, free.answers) == ("open_answer", ("3.5", "3.50 m"))
    assert free.parts[-1] == TextPart("\n\nAnswer the question using a single word or phrase.")
    assert choice.groups == (("subject", "Physics"), ("question", "multiple-choice"))


def test_blink_shows_images_first(tmp_path: Path) -> None:
    published.blink(tmp_path)
    jigsaw, depth = pictures.blink(tmp_path)
    *images, text = jigsaw.parts
    assert [part.modality for part in images if isinstance(part, MediaPart)] == ["image", "image"]
    assert isinstance(text, TextPart)
    assert text.text.startswith("Disclaimer: This is not to make unfair assumptions")
    assert depth.parts[-1] == TextPart(
        "Which?\nSelect from the following choices.\n(A) first\n(B) second\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (jigsaw.answers, jigsaw.category) == (("B",), "Jigsaw")
