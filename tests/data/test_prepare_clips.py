"""Preparation of a row for encoders of clips, from real files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.collate import collate
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.media import video as media
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.encode import prompt_text
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.structures import ClipShape, Frames, MediaInfo, Sample
from tests.media_files import h264, read_number, variable_rate_seconds, write_clip, write_variable_rate
from tests.readers import ReaderWith
from tests.small_data import tiny_tokenizer, turns, with_settings, write_pictures, write_rows

CLIP = ClipShape(num_frames=4, num_tokens=8, image_size=160)  # frames of media_files are 160 pixels wide
QUESTION = turns("<video>\nWhat colour?", "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and videos of 4, 5 and 12 seconds: frame k is played k tenths of a second after the first one."""
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 3)
    for name, num_frames in (("four", 40), ("five", 50), ("twelve", 120)):
        write_clip(folder / f"{name}.mp4", num_frames, 10, *h264())
    return folder


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(
        Preprocessing(
            tokenizer=tiny_tokenizer(),
            patch_size=14,
            image_merge_size=1,
            video_merge_size=2,
            sampling=SamplingConfig(kind="clips", fps=2.0),
            budget=BudgetConfig(token_budget=200, min_tokens=16, max_length=1024),
            clip=CLIP,
        )
    )


def conversation(folder: Path, **row: Any) -> Conversation:
    return read_manifest(write_rows(folder / "row.jsonl", [row]), "test", folder)[0]


def asking(folder: Path, video: str, **row: Any) -> Conversation:
    return conversation(folder, video=video, conversations=QUESTION, **row)


def with_budget(preparer: Preparer, num_clips: int, max_length: int = 1024) -> Preparer:
    budget = BudgetConfig(token_budget=num_clips * CLIP.num_tokens, min_tokens=4, max_length=max_length)
    return with_settings(preparer, budget=budget)


def numbers(sample: Sample, index: int = 0) -> list[list[int]]:
    """The numbers that the frames of every clip show."""
    shown = [read_number(picture) for picture in sample.visuals[index].frames.pixels]
    return [shown[first : first + 4] for first in range(0, len(shown), 4)]


def spans(sample: Sample) -> Tensor:
    seconds = sample.visuals[0].spans_seconds
    assert seconds is not None
    return seconds


def num_clips(sample: Sample) -> list[int]:
    return [item.num_runs for item in sample.visuals]


def test_frames_and_times_of_every_clip(folder: Path, preparer: Preparer) -> None:
    sample = preparer.sample(asking(folder, "five.mp4"), folder)
    (item,) = sample.visuals
    assert numbers(sample) == [[0, 5, 10, 15], [20, 25, 30, 35], [30, 35, 40, 45]]
    assert item.frames.pts_seconds.tolist() == pytest.approx([n / 10 for clip in numbers(sample) for n in clip])
    torch.testing.assert_close(spans(sample), torch.tensor([[0.0, 2.0], [2.0, 4.0], [3.0, 5.0]]).double())
    assert (item.modality, item.merge_size, item.clip, item.duration_seconds) == ("video", 1, CLIP, 5.0)
    assert int(sample.is_placeholder.sum()) == 3 * 8


@pytest.mark.parametrize(
    ("name", "write", "seconds_of", "expected_clips"),
    [
        ("variable.mp4", write_variable_rate, variable_rate_seconds, 5),
        (
            "shifted.mkv",
            lambda path: write_clip(path, 50, 10, *h264(), "-output_ts_offset", 3.5),
            lambda number: number / 10,
            3,
        ),
    ],
)
def test_spans_are_the_times_of_the_frames(
    name: str,
    write: Callable[[Path], Path],
    seconds_of: Callable[[int], float],
    expected_clips: int,
    preparer: Preparer,
    tmp_path: Path,
) -> None:
    """A clip begins with the frame that it shows first, and ends 4 half seconds later or with the video."""
    info = media.probe(write(tmp_path / name))
    sample = preparer.sample(asking(tmp_path, name), tmp_path)
    begins = [seconds_of(clip[0]) for clip in numbers(sample)]
    ends = [min(begin + 2.0, info.duration_seconds) for begin in begins]
    expected = torch.tensor([begins, ends], dtype=torch.float64).T
    torch.testing.assert_close(spans(sample), expected, atol=2e-3, rtol=0)
    assert len(begins) == expected_clips


def test_every_moment_is_decoded_once_and_in_order(folder: Path, preparer: Preparer) -> None:
    """The last clip of these 5 seconds begins at 3 s, where the one before it still plays."""
    asked = []

    def decode(info: MediaInfo, timestamps: Tensor, size: tuple[int, int]) -> Frames:
        asked.append(timestamps)
        return media.decode(info, timestamps, size)

    row = asking(folder, "twelve.mp4", start_time=1.0, end_time=6.0)
    sample = replace(preparer, reader=ReaderWith(replacement=decode)).sample(row, folder)
    assert numbers(sample) == [[10, 15, 20, 25], [30, 35, 40, 45], [40, 45, 50, 55]]
    torch.testing.assert_close(spans(sample), torch.tensor([[1.0, 3.0], [3.0, 5.0], [4.0, 6.0]]).double())
    assert asked[0].tolist() == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5])


def test_a_short_segment_is_one_clip_that_ends_with_it(folder: Path, preparer: Preparer) -> None:
    sample = preparer.sample(asking(folder, "twelve.mp4", start_time=2.0, end_time=3.2), folder)
    assert numbers(sample) == [[20, 25, 30, 30]]
    torch.testing.assert_close(spans(sample), torch.tensor([[2.0, 3.2]]).double())


def test_frames_keep_their_aspect_at_the_size_of_a_clip(folder: Path, preparer: Preparer) -> None:
    small = with_settings(preparer, clip=replace(CLIP, image_size=20))
    Image.new("RGB", (30, 400)).save(folder / "tall.png")
    Image.new("RGB", (900, 3)).save(folder / "flat.png")
    row = {
        "image": ["000.png", "tall.png", "flat.png"],
        "video": "four.mp4",
        "conversations": turns("<image><image><image><video>?", "red"),
    }
    sample = small.sample(conversation(folder, **row), folder)
    sizes = [tuple(item.frames.pixels.shape) for item in sample.visuals]
    assert sizes == [(1, 3, 15, 20), (1, 3, 20, 2), (1, 3, 1, 20), (8, 3, 6, 20)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        # 12 s, of which the budget takes three clips
        (SamplingConfig(kind="clips", fps=2.0), [[0, 5, 10, 15], [50, 55, 60, 65], [100, 105, 110, 115]]),
        (SamplingConfig(kind="fps", fps=2.0), [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90, 100, 115]]),
        (SamplingConfig(kind="uniform", max_frames=24), [[5, 15, 25, 35], [45, 55, 65, 75], [85, 95, 105, 115]]),
    ],
)
def test_a_video_beyond_the_budget_is_sampled_anew(
    sampling: SamplingConfig, expected: list[list[int]], folder: Path, preparer: Preparer
) -> None:
    sample = with_budget(with_settings(preparer, sampling=sampling), 3).sample(asking(folder, "twelve.mp4"), folder)
    assert numbers(sample) == expected


def test_a_segment_beyond_the_budget_is_sampled_anew_inside_it(folder: Path, preparer: Preparer) -> None:
    row = asking(folder, "twelve.mp4", start_time=1.0, end_time=6.0)
    assert numbers(with_budget(preparer, 2).sample(row, folder)) == [[10, 15, 20, 25], [40, 45, 50, 55]]


@pytest.mark.parametrize(("budget", "expected"), [(10, [1, 2, 6, 1]), (8, [1, 2, 4, 1]), (5, [1, 1, 2, 1])])
def test_images_take_one_clip_and_videos_share_the_others(
    budget: int, expected: list[int], folder: Path, preparer: Preparer
) -> None:
    row = {
        "image": ["000.png", "001.png"],
        "video": ["four.mp4", "twelve.mp4"],
        "conversations": turns("<image><video><video><image>?", "red"),
    }
    sample = with_budget(preparer, budget).sample(conversation(folder, **row), folder)
    assert num_clips(sample) == expected
    assert [item.modality for item in sample.visuals] == ["image", "video", "video", "image"]


def test_more_media_than_the_budget_has_clips_are_an_error(folder: Path, preparer: Preparer) -> None:
    row = {"image": ["000.png"] * 3, "conversations": turns("<image><image><image>?", "red")}
    message = "3 images and videos of 8 tokens or more do not fit a token_budget of 16: raise data.budget.token_budget"
    with pytest.raises(ValueError, match=message):
        with_budget(preparer, 2).sample(conversation(folder, **row), folder)


@pytest.mark.parametrize(
    ("text", "question"), [(ClipTextConfig(), "blue " * 60), (ClipTextConfig("both", "released"), "Why?")]
)
def test_clips_go_until_text_and_media_fit(
    text: ClipTextConfig, question: str, folder: Path, preparer: Preparer
) -> None:
    """As many clips stay as fit together with their stamps, and not a word of the question goes."""
    row = {"video": "twelve.mp4", "conversations": turns(f"<video>\n{question}", "red")}
    asked = conversation(folder, **row)
    preparer = with_settings(preparer, clip_text=text)
    lengths = [with_budget(preparer, n).sample(asked, folder).input_ids.numel() for n in range(1, 7)]
    assert lengths == sorted(lengths)
    for limit in (lengths[0], lengths[3], lengths[4] - 1, lengths[5] - 1):
        sample = with_budget(preparer, 6, max_length=limit).sample(asked, folder)
        assert num_clips(sample) == [sum(length <= limit for length in lengths)]
        assert sample.input_ids.numel() <= limit
    with pytest.raises(ValueError, match=rf"\b{lengths[5]} tokens.*max_length.*\b{lengths[0] - 1}\b"):
        with_budget(preparer, 6, max_length=lengths[0] - 1).sample(asked, folder)


def test_old_turns_go_where_the_text_alone_is_too_long(folder: Path, preparer: Preparer) -> None:
    chat = [*QUESTION, *turns("blue " * 300, "ok"), *turns("And now?", "green")]
    sample = with_budget(preparer, 6, max_length=250).sample(
        conversation(folder, video="twelve.mp4", conversations=chat), folder
    )
    assert num_clips(sample) == [6]
    assert sample.input_ids.numel() <= 250


def test_the_single_frame_baseline_shows_one_picture_without_a_time(folder: Path, preparer: Preparer) -> None:
    row = asking(folder, "twelve.mp4")
    baseline = replace(preparer, visuals="single_frame")
    samples = [baseline.sample(row, folder, epoch) for epoch in range(8)]
    assert all(num_clips(sample) == [1] and len(sample.visuals[0].frames) == 1 for sample in samples)
    assert len({numbers(sample)[0][0] for sample in samples}) > 3
    (item,) = samples[0].visuals
    assert (item.modality, item.merge_size, item.spans_seconds) == ("image", 1, None)
    assert prompt_text(row, [item], 14).startswith("<|im_start|>user\n<image>*8\nWhat colour?")


def test_the_blind_baseline_shows_nothing(folder: Path, preparer: Preparer) -> None:
    sample = replace(preparer, visuals="blind").sample(asking(folder, "missing.mp4"), folder)
    text = preparer.sample(conversation(folder, conversations=turns("What colour?", "red")), folder)
    assert torch.equal(sample.input_ids, text.input_ids)


@pytest.mark.parametrize("visuals", ["full", "blind"])
def test_a_stream_is_an_error(visuals: str, folder: Path, preparer: Preparer) -> None:
    talk = [{"role": "user", "content": "Watch.", "time": 0.0}, {"role": "assistant", "content": "red", "time": 1.0}]
    row = conversation(folder, stream=True, video=["four.mp4"], conversation=talk)
    with pytest.raises(ValueError, match=r"stream.*clips"):
        replace(preparer, visuals=visuals).sample(row, folder)


def test_a_picture_called_a_video_is_one_clip_of_it(folder: Path, preparer: Preparer) -> None:
    sample = preparer.sample(asking(folder, "000.png"), folder)
    (item,) = sample.visuals
    assert item.frames.pixels.shape == (4, 3, 120, 160)
    assert bool((item.frames.pixels == item.frames.pixels[0]).all())
    assert spans(sample).tolist() == [[0.0, 0.0]]


def test_a_batch_agrees_with_its_placeholders(folder: Path, preparer: Preparer) -> None:
    row = {"image": "000.png", "video": "five.mp4", "conversations": turns("<image><video>?", "red")}
    rows = [
        conversation(folder, **row),
        conversation(folder, conversations=turns("Why?", "red")),
        asking(folder, "four.mp4"),
    ]
    batch = collate([preparer.sample(row, folder) for row in rows], 14)
    assert batch.visual.clip == CLIP
    assert batch.visual.num_clips == [1, 3, 2]
    assert batch.visual.run_tokens == [8] * 6
    assert batch.run_samples == (0, 0, 0, 0, 2, 2)
    assert batch.modalities == ("video", "text", "video")
    image = preparer.settings.tokenizer.convert_tokens_to_ids("<image>")
    assert batch.input_ids[batch.visual_positions].tolist() == [image] * 48
    assert int((batch.input_ids == image).sum()) == 48


def test_no_text_stands_between_clips_where_none_is_asked_for(folder: Path, preparer: Preparer) -> None:
    plain = with_settings(preparer, clip_text=ClipTextConfig("none"))
    sample = plain.sample(asking(folder, "twelve.mp4"), folder)
    assert num_clips(sample) == [6]
    runs = sample.is_placeholder.nonzero().flatten().diff()
    assert bool((runs == 1).all())


def test_a_model_of_frames_refuses_clips(preparer: Preparer) -> None:
    with pytest.raises(ValueError, match=r'kind.*"clips".*frames'):
        with_settings(preparer, clip=None)
    with pytest.raises(ValueError, match=r"clips of 8 frames"):
        with_settings(preparer, clip=replace(CLIP, num_frames=8))
