"""Preparation of a row as a sample, with its sizes and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.structures import IGNORE_INDEX, Frames, Sample
from tests.media_files import write_clip
from tests.readers import ReaderWith
from tests.small_data import tiny_tokenizer, turns, with_settings, write_pictures, write_rows

QUESTION = turns("<video>\nWhat colour came first?", "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures and a clip of 4 seconds."""
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 2)
    write_clip(folder / "clip.mp4", num_frames=40, fps=10)
    return folder


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(
        Preprocessing(
            tokenizer=tiny_tokenizer(),
            patch_size=8,
            image_merge_size=1,
            video_merge_size=2,
            sampling=SamplingConfig(fps=2.0),
            budget=BudgetConfig(token_budget=64, min_tokens=4, max_length=512),
        )
    )


def conversation(folder: Path, **row: Any) -> Conversation:
    path = write_rows(folder / "row.jsonl", [row])
    return read_manifest(path, "test", folder)[0]


def num_frames(sample: Sample) -> list[int]:
    return [len(item.frames) for item in sample.visuals]


def test_a_video_is_shown_at_its_times(folder: Path, preparer: Preparer) -> None:
    sample = preparer.sample(conversation(folder, video="clip.mp4", conversations=QUESTION), folder)
    (item,) = sample.visuals
    assert item.modality == "video"
    assert item.merge_size == 2
    assert item.frames.pts_seconds.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    assert item.num_visual_tokens(8) <= 64


def test_images_and_videos_share_the_budget(folder: Path, preparer: Preparer) -> None:
    row = {
        "image": ["000.png", "001.png"],
        "video": "clip.mp4",
        "conversations": turns("<image><image><video>?", "red"),
    }
    sample = preparer.sample(conversation(folder, **row), folder)
    assert num_frames(sample) == [1, 1, 8]
    assert [item.merge_size for item in sample.visuals] == [1, 1, 2]
    assert sum(item.num_visual_tokens(8) for item in sample.visuals) <= 64


def test_frames_go_before_a_frame_gets_too_small(folder: Path, preparer: Preparer) -> None:
    small = with_settings(preparer, budget=BudgetConfig(token_budget=20, min_tokens=4, max_length=512))
    sample = small.sample(conversation(folder, video="clip.mp4", conversations=QUESTION), folder)
    (item,) = sample.visuals
    assert len(item.frames) == 5  # 20 tokens, 4 a frame
    assert item.frames.pts_seconds[[0, -1]].tolist() == pytest.approx([0.0, 3.5])
    assert item.num_visual_tokens(8) <= 20


def test_media_shrink_to_what_the_text_leaves(folder: Path, preparer: Preparer) -> None:
    row = {"video": "clip.mp4", "conversations": turns("<video>\n" + "blue " * 60, "red")}
    full = preparer.sample(conversation(folder, **row), folder)
    limit = full.input_ids.numel() - 12
    tight = with_settings(preparer, budget=BudgetConfig(token_budget=64, min_tokens=4, max_length=limit))
    sample = tight.sample(conversation(folder, **row), folder)
    assert sample.input_ids.numel() <= limit
    assert 0 < sum(item.num_visual_tokens(8) for item in sample.visuals) <= 64 - 12
    text = [one.input_ids[~one.is_placeholder] for one in (full, sample) if num_frames(one) == num_frames(full)]
    assert all(torch.equal(text[0], other) for other in text)  # not a word went


def test_old_turns_go_where_the_text_alone_is_too_long(folder: Path, preparer: Preparer) -> None:
    chat = [*turns("<image>\nWhat colour?", "red"), *turns("blue " * 200, "ok"), *turns("And now?", "green")]
    row = {"image": "000.png", "conversations": chat}
    tight = with_settings(preparer, budget=BudgetConfig(token_budget=64, min_tokens=4, max_length=150))
    sample = tight.sample(conversation(folder, **row), folder)
    assert sample.input_ids.numel() <= 150
    assert num_frames(sample) == [1]
    untouched = preparer.sample(conversation(folder, **row), folder)
    assert torch.equal(sample.labels[sample.labels >= 0][-2:], untouched.labels[untouched.labels >= 0][-2:])


def test_an_answer_that_cannot_fit_is_an_error(folder: Path, preparer: Preparer) -> None:
    tight = with_settings(preparer, budget=BudgetConfig(token_budget=64, min_tokens=4, max_length=80))
    with pytest.raises(ValueError, match=r"max_length.*\b80\b"):
        tight.sample(conversation(folder, conversations=turns("Tell me.", "red " * 200)), folder)


def test_more_pictures_than_the_budget_has_room_for_are_an_error(folder: Path, preparer: Preparer) -> None:
    row = {"image": ["000.png"] * 3, "conversations": turns("<image><image><image>?", "red")}
    tight = with_settings(preparer, budget=BudgetConfig(token_budget=8, min_tokens=4, max_length=80))
    with pytest.raises(ValueError, match=r"3 images.*token_budget.*8"):
        tight.sample(conversation(folder, **row), folder)


def test_a_stream_ends_with_its_last_frame(folder: Path, preparer: Preparer) -> None:
    talk = [
        {"role": "user", "content": "Watch.", "time": 0.0},
        {"role": "assistant", "content": "red", "time": 1.0},
        {"role": "assistant", "content": "green", "time": 3.0},
    ]
    row = conversation(folder, stream=True, video=["clip.mp4"], conversation=talk)
    whole = preparer.sample(row, folder)
    short = with_settings(preparer, stream_max_frames=4).sample(row, folder)
    assert num_frames(whole) == [8]
    assert num_frames(short) == [4]
    assert short.visuals[0].frames.pts_seconds.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5])
    red, green = (preparer.settings.tokenizer.encode(word, add_special_tokens=False, split_special_tokens=True)[0]
                  for word in ("red", "green"))  # fmt: skip
    assert {red, green} <= set(whole.labels.tolist())
    assert red in short.labels.tolist()
    assert green not in short.labels.tolist()


def test_the_single_frame_baseline_shows_one_picture_without_a_time(folder: Path, preparer: Preparer) -> None:
    row = conversation(folder, video="clip.mp4", conversations=QUESTION)
    baseline = replace(preparer, visuals="single_frame", seed=1)
    shown = [baseline.sample(row, folder, epoch).visuals[0] for epoch in range(12)]
    assert all(item.modality == "image" and len(item.frames) == 1 for item in shown)
    assert torch.equal(baseline.sample(row, folder, 3).visuals[0].frames.pixels, shown[3].frames.pixels)
    plans = [baseline.plan(row, folder, epoch)[1][0] for epoch in range(12)]
    assert len({float(plan.timestamps) for plan in plans if plan}) > 3  # another moment in another epoch
    picture = preparer.sample(
        conversation(folder, image="000.png", conversations=turns("<image>\nWhat colour came first?", "red")), folder
    )
    sample = baseline.sample(row, folder)
    assert torch.equal(sample.input_ids[~sample.is_placeholder], picture.input_ids[~picture.is_placeholder])


def test_the_blind_baseline_shows_nothing(folder: Path, preparer: Preparer) -> None:
    row = conversation(folder, video="missing.mp4", conversations=QUESTION)  # is not even looked for
    sample = replace(preparer, visuals="blind").sample(row, folder)
    text = preparer.sample(conversation(folder, conversations=turns("What colour came first?", "red")), folder)
    assert torch.equal(sample.input_ids, text.input_ids)
    assert not sample.visuals


def test_decoding_is_one_call_for_each_item(folder: Path, preparer: Preparer) -> None:
    calls = []

    def decode(info: Any, timestamps: torch.Tensor, size: tuple[int, int]) -> Frames:
        calls.append((Path(info.path).name, timestamps.tolist(), size))
        return Frames(torch.zeros(len(timestamps), 3, *size, dtype=torch.uint8), timestamps)

    row = {"image": "000.png", "video": "clip.mp4", "conversations": turns("<image><video>?", "red")}
    replace(preparer, reader=ReaderWith(replacement=decode)).sample(conversation(folder, **row), folder)
    assert [name for name, _, _ in calls] == ["000.png", "clip.mp4"]
    assert calls[1][1] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])


def test_a_row_says_how_its_video_is_sampled(folder: Path, preparer: Preparer) -> None:
    def times(sampling: SamplingConfig, **row: Any) -> list[float]:
        one = conversation(folder, video="clip.mp4", conversations=QUESTION, **row)
        (item,) = with_settings(preparer, sampling=sampling).sample(one, folder).visuals
        return item.frames.pts_seconds.tolist()

    recipe = SamplingConfig(fps=2.0, max_frames=6)
    assert times(recipe, fps=1) == pytest.approx([0.0, 1.0, 2.0, 3.0])
    assert times(recipe, max_frames=2) == pytest.approx([0.0, 3.5])
    assert times(recipe, fps=1, start_time=2) == pytest.approx([2.0, 3.0])
    assert times(SamplingConfig(kind="uniform", max_frames=3), fps=0.5) == pytest.approx([0.0, 2.0])


def test_answers_whose_loss_is_off_are_shown_and_carry_no_label(folder: Path, preparer: Preparer) -> None:
    def sample(**switch: object) -> Sample:
        first, answer = turns("Why?", "red green")
        talk = [first, {**answer, **switch}, *turns("And now?", "blue")]
        return preparer.sample(conversation(folder, conversations=talk), folder)

    learnt, shown = sample(), sample(loss=False)
    assert torch.equal(shown.input_ids, learnt.input_ids)  # which are those of a prompt that has the answer in it, too
    alone = preparer.sample(conversation(folder, conversations=turns("And now?", "blue")), folder)
    answer = alone.labels[alone.labels != IGNORE_INDEX]
    assert shown.labels[shown.labels != IGNORE_INDEX].tolist() == answer.tolist()
    assert learnt.num_labels > shown.num_labels == len(answer) > 0
