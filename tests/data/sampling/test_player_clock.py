"""Seconds of annotations and prompts are those of a player, which counts from where the file begins: as `ffmpeg -ss`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.clip_text import run_texts
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.encode import prompt_text
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.question import Question, Subtitle
from lightning_apollo.structures import ClipShape, Frames, MediaError, MediaInfo, VisualItem
from tests.media_files import HEIGHT, WIDTH, ffmpeg, h264, read_number, write_clip
from tests.small_data import tiny_tokenizer, turns, with_settings, write_rows

BUDGET = BudgetConfig(token_budget=2000, min_tokens=4, max_length=4000)
PREPARER = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, SamplingConfig(), BUDGET))
CONTAINER = with_settings(PREPARER, sampling=SamplingConfig(clock="container"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds that begin at 1.4 s, at ten hours and at 3.5 s on their containers' clocks."""
    folder = tmp_path_factory.mktemp("clocks")
    encoded = write_clip(folder / "plain.mp4", 40, 10, *h264(10, 0))
    ffmpeg("-i", encoded, "-c", "copy", folder / "tuner.ts")
    ffmpeg("-i", encoded, "-c", "copy", "-output_ts_offset", 36000, folder / "hours.ts")
    ffmpeg("-i", encoded, "-c", "copy", "-output_ts_offset", 3.5, folder / "late.mkv")
    return folder


def row_of(folder: Path, **row: Any) -> Conversation:
    return read_manifest(write_rows(folder / "row.jsonl", [row]), "test", folder)[0]


def asking(folder: Path, video: str, **row: Any) -> Conversation:
    return row_of(folder, video=video, conversations=turns("<video>\nWhen?", "now"), **row)


def times(text: str) -> list[str]:
    return [piece.split("s:")[0] for piece in text.split("Time ")[1:]]


def printed(preparer: Preparer, conversation: Conversation, folder: Path) -> list[str]:
    return times(prompt_text(conversation, preparer.prompt(conversation, folder).visuals, 8))


@pytest.mark.parametrize("name", ["plain.mp4", "tuner.ts", "hours.ts", "late.mkv"])
def test_a_cut_is_that_of_ffmpeg(name: str, folder: Path, tmp_path: Path) -> None:
    ffmpeg("-ss", 1, "-t", 2, "-i", folder / name, "-qscale:v", 2, tmp_path / "%d.png")
    expected = [read_number(decode(path, torch.zeros(1), (HEIGHT, WIDTH)).pixels[0])
                for path in sorted(tmp_path.glob("*.png"), key=lambda path: int(path.stem))][::5]  # fmt: skip
    info = probe(folder / name)
    moments = sample_timestamps(info, SamplingConfig(fps=2.0), 1.0, 3.0)
    assert [read_number(picture) for picture in decode(info, moments, (HEIGHT, WIDTH)).pixels] == expected
    assert expected == [10, 15, 20, 25]


@pytest.mark.parametrize(("name", "begin"), [("tuner.ts", 1.4), ("hours.ts", 36001.4), ("late.mkv", 3.5)])
def test_times_in_the_prompt_are_a_players_or_the_containers(name: str, begin: float, folder: Path) -> None:
    assert printed(PREPARER, asking(folder, name), folder) == ["0.0", "1.0", "2.0", "3.0"]
    assert printed(PREPARER, asking(folder, name, start_time=1.0, end_time=3.0), folder) == ["1.0", "2.0"]
    stamps = [f"{begin + second:.1f}" for second in range(4)]
    assert printed(CONTAINER, asking(folder, name), folder) == stamps
    assert printed(CONTAINER, asking(folder, name, start_time=1.0, end_time=3.0), folder) == stamps[1:3]


def test_an_impossible_cut_is_told_in_the_seconds_of_the_row(folder: Path) -> None:
    with pytest.raises(MediaError, match=r"9\.0.*0\.00.*4\.00"):
        sample_timestamps(probe(folder / "hours.ts"), SamplingConfig(), 9.0)


@pytest.mark.parametrize("preparer", [PREPARER, CONTAINER])
def test_turns_of_a_stream_are_on_the_players_clock(preparer: Preparer, folder: Path) -> None:
    talk = [{"role": role, "content": role, "time": time} for role, time in (("user", 0.0), ("assistant", 2.0))]
    rows = [row_of(folder, stream=True, video=name, conversation=talk) for name in ("plain.mp4", "hours.ts")]
    plain, hours = (preparer.sample(row, folder) for row in rows)
    text = tiny_tokenizer().decode(hours.input_ids)  # pyright: ignore[reportAttributeAccessIssue] (transformers' own)
    stamps = (
        ["0.0", "1.0", "2.0", "3.0"] if preparer is PREPARER else [f"{36001.4 + second:.1f}" for second in range(4)]
    )
    assert times(text.replace("s: ", "s:")) == stamps
    assert text.index("assistant") > text.index(stamps[2])  # shown at 2.0 s, and the frame behind it is not
    assert text.index("assistant") < text.index(stamps[3])
    assert len(plain.visuals[0].frames) == len(hours.visuals[0].frames) == 4
    if preparer is PREPARER:
        assert torch.equal(plain.input_ids, hours.input_ids)


@pytest.mark.parametrize("preparer", [PREPARER, CONTAINER])
def test_subtitles_are_on_the_players_clock(preparer: Preparer, folder: Path) -> None:
    said = (Subtitle(0.5, 1.5, "one"), Subtitle(2.5, 3.5, "three"), Subtitle(4.5, 5.5, "behind the end"))
    for placement in ("above", "between"):
        parts = (MediaPart("video", "hours.ts"), TextPart("What?"))
        question = Question("q", parts, ("x",), "exact", subtitles=said, subtitle_placement=placement)
        ids = build_prompt(question, preparer, folder).input_ids.tolist()
        text = tiny_tokenizer().decode(ids)  # pyright: ignore[reportAttributeAccessIssue] (transformers' own)
        assert ("one" in text, "three" in text, "behind" in text) == (True, True, False)


def test_clips_are_on_the_players_clock(folder: Path) -> None:
    clip = ClipShape(num_frames=4, num_tokens=8, image_size=160)
    preparer = Preparer(
        Preprocessing(tiny_tokenizer(), 8, 1, 1, SamplingConfig(kind="clips", fps=2.0), BUDGET, clip=clip)
    )
    (item,) = preparer.sample(asking(folder, "late.mkv"), folder).visuals
    assert item.spans_seconds is not None
    assert item.spans_seconds.tolist() == [[0.0, 2.0], [2.0, 4.0]]


def test_no_time_is_minus_zero() -> None:
    """A container may begin a hair before 0."""
    frames = Frames(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.tensor([-0.02], dtype=torch.float64))
    item = VisualItem(frames, "video", merge_size=2)
    message = Message("user", (MediaPart("video", "v"), TextPart("When?")))
    assert "Time 0.0s:" in prompt_text(Conversation("row", "test", (message,)), [item], 8)
    spans = torch.tensor([[-0.02, 1.98]], dtype=torch.float64)
    clip = replace(item, clip=ClipShape(1, 1, 16), spans_seconds=spans, duration_seconds=2.0)
    assert run_texts(clip, ClipTextConfig(times="released"))[0].endswith("0.0-2.0 seconds: ")
    info = MediaInfo("v", "video", 16, 16, -1e-17, 2.0, 20, 10.0, "h264")
    with pytest.raises(MediaError, match=r"\b0\.00.*\b2\.00\b"):
        sample_timestamps(info, SamplingConfig(), 5.0)
