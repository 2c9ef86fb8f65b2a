from pathlib import Path

import pytest

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import Question
from lightning_apollo.evaluation.readers import short_video
from lightning_apollo.inference.parsers import Choice
from tests.evaluation import published


def text_of(question: Question) -> str:
    (text,) = (part.text for part in question.parts if isinstance(part, TextPart))
    return text


def test_mvbench_has_twenty_tasks_some_about_a_part_of_the_video(tmp_path: Path) -> None:
    published.mvbench(tmp_path)
    questions = {question.category: question for question in short_video.mvbench(tmp_path)}
    assert len(questions) == 20
    of_a_part = {name for name, q in questions.items() if q.media[0].begin_seconds is not None}
    assert of_a_part == {
        *("action sequence", "action prediction", "object interaction"),
        *("action localization", "episodic reasoning"),
    }
    one = questions["action sequence"]
    assert one.media == (MediaPart("video", "video/star/Charades_v1_480/clip.mp4", 1.5, 4.0),)
    assert one.answers == ("B",)
    assert text_of(one) == (
        "Question: What happened?\nOptions:\n(A) it fell\n(B) it rose\n(C) nothing\nAnswer with the option's letter from the "
        "given choices directly and only give the best option."
    )


def test_tempcompass_offers_options_in_three_forms(tmp_path: Path) -> None:
    published.tempcompass(tmp_path)
    choice, yes_no, captions, options = short_video.tempcompass(tmp_path)
    assert choice.choices == (Choice("A", "up"), Choice("B", "down"), Choice("C", "left"))
    assert choice.answers == ("B",)
    assert text_of(choice).startswith(
        "Question: Which way does it go?\nA. up\nB. down\nC. left\nPlease answer with the option"
    )
    assert (yes_no.choices, yes_no.answers) == ((Choice("", "yes"), Choice("", "no")), ("no",))
    assert captions.choices == (Choice("A", "It goes up."), Choice("B", "It goes down."))
    assert captions.answers == ("B",)
    assert options.choices == (Choice("1", "It turns."), Choice("2", "It stops."))
    assert options.answers == ("1",)
    assert options.groups == (("format", "caption_matching"), ("aspect", "speed"))
    assert {question.scene for question in (choice, yes_no, captions, options)} == {"videos/42.mp4"}


def test_perception_test(tmp_path: Path) -> None:
    published.perception_test(tmp_path)
    questions = list(short_video.perception_test(tmp_path))
    assert [question.question_id for question in questions] == ["video_7/0", "video_7/1", "video_7/2"]
    assert [question.answers for question in questions] == [("A",), ("B",), ("C",)]
    assert questions[0].groups == (("area", "Physics"), ("reasoning", "Predictive"))


def test_egoschema_keeps_what_has_an_answer(tmp_path: Path) -> None:
    published.egoschema(tmp_path)
    first, third = short_video.egoschema(tmp_path)
    assert (first.question_id, first.answers) == ("u-1", ("D",))
    assert (third.question_id, third.answers) == ("u-3", ("A",))
    assert "\nWhy?\nOptions:\n(A) reason 0\n(B) reason 1\n" in text_of(first)


def test_next_qa_finds_the_file_by_the_map(tmp_path: Path) -> None:
    published.next_qa(tmp_path)
    first, second = short_video.next_qa(tmp_path)
    assert first.scene == "NExTVideo/1164/4010069381.mp4"
    assert (first.question_id, first.answers) == ("4010069381/6", ("E",))
    assert first.groups == (("question", "causal"), ("type", "CW"))
    assert second.category == "temporal"


def test_activitynet_qa(tmp_path: Path) -> None:
    published.activitynet_qa(tmp_path)
    (tmp_path / "all_test").mkdir()
    (tmp_path / "all_test" / "v_1QIUV7WYKXg.webm").touch()
    first, second = short_video.activitynet_qa(tmp_path)
    assert first.scene == "all_test/v_1QIUV7WYKXg.webm"
    assert (first.answers, first.category) == (("yes",), "yes or no")
    assert (second.answers, second.category) == (("3",), "number")


def test_charades_sta(tmp_path: Path) -> None:
    published.charades_sta(tmp_path)
    first, second = short_video.charades_sta(tmp_path)
    assert first.media == (MediaPart("video", "Charades_v1/3MSZA.mp4"),)
    assert "person turn a light on." in text_of(first)
    assert text_of(first).endswith("Please output the start and end timestamps in seconds.")
    assert (first.answers, second.answers) == (("24.3 - 30.4",), ("0.0 - 6",))


@pytest.mark.parametrize("reader", [short_video.mvbench])
def test_an_answer_that_no_choice_is(reader, tmp_path: Path) -> None:
    published.mvbench(tmp_path)
    row = {"video": "v.mp4", "question": "?", "candidates": ["a", "b"], "answer": "c", "start": 0, "end": 1}
    published.write_json(tmp_path / "json" / "action_sequence.json", [row])
    with pytest.raises(ValueError, match="'c' is not in list"):
        list(reader(tmp_path))
