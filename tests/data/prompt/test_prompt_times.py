"""The times in the prompt against the frame numbers burnt into the frames that stand beside them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.encode import prompt_text
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from tests.media_files import h264, read_number, variable_rate_seconds, write_clip, write_variable_rate
from tests.small_data import tiny_tokenizer

CLIPS: dict[str, tuple[Callable[[Path], Path], Callable[[int], float]]] = {
    "constant.mp4": (lambda path: write_clip(path, 40, 10, *h264()), lambda number: number / 10),
    "variable.mp4": (write_variable_rate, variable_rate_seconds),
    "shifted.mkv": (
        lambda path: write_clip(path, 40, 10, *h264(), "-output_ts_offset", 3.5),
        lambda number: number / 10,
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_printed_times_are_those_of_the_frames(name: str, tmp_path: Path) -> None:
    write, seconds_of = CLIPS[name]
    write(tmp_path / name)
    preparer = Preparer(
        Preprocessing(
            tokenizer=tiny_tokenizer(),
            patch_size=8,
            image_merge_size=1,
            video_merge_size=2,
            sampling=SamplingConfig(fps=1.6),
            budget=BudgetConfig(token_budget=4000, min_tokens=4, max_length=8000),
        )
    )
    message = Message("user", (MediaPart("video", name), TextPart("When?")))
    conversation = Conversation("row", "test", (message,))
    (item,) = preparer.prompt(conversation, tmp_path).visuals
    printed = [float(time) for time in re.findall(r"Time (\d+\.\d)s:", prompt_text(conversation, [item], 8))]
    numbers = [read_number(picture) for picture in item.frames.pixels]
    assert len(printed) == len(numbers) >= 5
    assert numbers == sorted(numbers)
    half_a_frame, rounding = 0.05, 1e-6
    assert [abs(time - seconds_of(n)) <= half_a_frame + rounding for time, n in zip(printed, numbers, strict=True)] == [
        True
    ] * len(printed)
