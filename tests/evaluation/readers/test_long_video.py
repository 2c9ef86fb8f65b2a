import json
from pathlib import Path

import pytest

from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.evaluation.question import BenchmarkError, Subtitle
from lightning_apollo.evaluation.readers.long_video import (
    long_video_bench,
    lvbench,
    mlvu,
    video_mme,
    video_mme_subtitles,
)
from lightning_apollo.inference.parsers import Choice
from tests.evaluation import published


def test_video_mme(tmp_path: Path) -> None:
    published.video_mme(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b-b.mkv").touch()
    first, _, third = video_mme(tmp_path)
    assert first.question_id == "001-0"
    assert first.parts == (
        MediaPart("video", "data/aa.mp4"),
        TextPart(
            "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
            "letter (A, B, C, or D) of the correct option.\nHow many in aa?\nA. One.\nB. Two.\nC. Three.\nD. Four.\n"
            "Answer with the option's letter from the given choices directly and only give the best option. "
            "The best answer is:"
        ),
    )
    assert first.answers == ("A",)
    assert first.choices[3] == Choice("D", "Four.")
    assert first.groups == (("duration", "short"), ("task", "Counting Problem"), ("domain", "Knowledge"))
    assert first.subtitles == ()
    assert third.scene == "data/b-b.mkv"


def test_video_mme_subtitles_lose_their_formatting(tmp_path: Path) -> None:
    published.video_mme(tmp_path)
    first, _, third = video_mme_subtitles(tmp_path)
    assert first.subtitles == (
        Subtitle(0.0, 1.5, "Good morning"),
        Subtitle(1.6, 2.4, "Three stars"),
        Subtitle(60.0, 62.0, "Good night"),
    )
    assert first.subtitle_placement == "above"
    assert third.subtitles == ()  # b-b has no file


def test_mlvu(tmp_path: Path) -> None:
    published.mlvu(tmp_path)
    questions = list(mlvu(tmp_path))
    assert len({question.category for question in questions}) == 7
    assert questions[0].parts == (
        MediaPart("video", "video/1_plotQA/1_plotQA.mp4"),
        TextPart(
            "Question: What is it?\nOptions:\n(A) a cat\n(B) a dog\nAnswer with the option's letter from the given choices "
            "directly and only give the best option."
        ),
    )
    assert [question.answers for question in questions[:2]] == [("B",), ("A",)]


def test_long_video_bench(tmp_path: Path) -> None:
    published.long_video_bench(tmp_path)
    first, second, third = long_video_bench(tmp_path)
    text = (
        "Question: Who speaks?\nA. the man\nB. the woman\nC. nobody\nD. a bird\nE. the dog\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert first.parts == (MediaPart("video", "videos/v.mp4"), TextPart(text))
    assert [question.answers for question in (first, second, third)] == [("A",), ("E",), ("B",)]
    assert first.groups == (("duration", "up to 60 s"), ("level", "L1-Perception"), ("category", "S2E"))
    assert first.subtitle_placement == "between"
    (subtitle,) = first.subtitles  # 0.4 s long, around 0.2 s once the clock is the video's: taken for a second
    assert (subtitle.begin_seconds, subtitle.end_seconds) == pytest.approx((-0.3, 0.7))
    assert subtitle.text == "hello"
    (subtitle,) = third.subtitles
    assert (subtitle.begin_seconds, subtitle.end_seconds) == pytest.approx((2.0, 50.0))


def test_subtitles_of_another_folder_are_refused(tmp_path: Path) -> None:
    published.long_video_bench(tmp_path)
    rows = json.loads((tmp_path / "lvb_val.json").read_text())
    rows[0]["subtitle_path"] = "../../secret.json"
    (tmp_path / "lvb_val.json").write_text(json.dumps(rows))
    with pytest.raises(BenchmarkError, match=r"'\.\./\.\./secret\.json'"):
        list(long_video_bench(tmp_path))


def test_lvbench(tmp_path: Path) -> None:
    published.lvbench(tmp_path)
    first, second = lvbench(tmp_path)
    assert first.scene == second.scene == "video/Cm73ma6Ibcs.mp4"
    assert first.choices == (
        Choice("A", "A clock"),
        Choice("B", "A map"),
        Choice("C", "A lamp"),
        Choice("D", "Nothing"),
    )
    assert first.answers == ("B",)
    assert second.groups == (("question", "entity recognition"), ("question", "reasoning"))
    (text,) = (part.text for part in first.parts if isinstance(part, TextPart))
    assert text.endswith("(D) Nothing\nAnswer with the option's letter from the given choices directly.")
