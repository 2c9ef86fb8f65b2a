"""A frame is shown once, at the size that the real number of frames leaves room for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter, tokens
from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.encode import prompt_text
from lightning_apollo.data.sampling.budget import BudgetConfig, target_sizes
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.structures import Frames, MediaInfo
from tests.media_files import HEIGHT, WIDTH, h264, read_number, write_clip
from tests.small_data import tiny_tokenizer, turns, with_settings, write_rows

BUDGET = BudgetConfig(token_budget=600, min_tokens=4, max_length=2000)
PREPARER = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 1, SamplingConfig(), BUDGET))
SPARSE = (0.0, 3.0, 50.0, 51.0, 90.0, 99.0)  # seconds at which the screen changes
BURST = (*(number / 10 for number in range(60)), 58.5, 59.0)  # 60 frames in 6 s, then one now and then
SHOWN = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.9, 59.0]  # of them, at one a second


def write_at(path: Path, seconds: tuple[float, ...]) -> Path:
    """A clip whose frame k is shown from seconds[k] on."""
    times = "+".join(f"eq(N,{number})*{second}" for number, second in enumerate(seconds))
    timing = ("-fps_mode", "passthrough", "-video_track_timescale", 1000)
    return write_clip(path, len(seconds), 10, "-vf", f"settb=1/1000,setpts='({times})/TB'", *timing, *h264(250, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    write_at(folder / "sparse.mp4", SPARSE)
    write_at(folder / "burst.mp4", BURST)
    return folder


def asking(folder: Path, *videos: str, **row: float) -> Conversation:
    text = "<video>" * len(videos) + "\nWhat?"
    path = write_rows(folder / "rows.jsonl", [{"video": list(videos), "conversations": turns(text, "so"), **row}])
    return read_manifest(path, "test", folder)[0]


class Counting(DirectReader):
    """Keep how many frames of which size were decoded."""

    calls: list[tuple[int, tuple[int, int]]]

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        self.calls.append((len(timestamps), size))
        return super().decode(info, timestamps, size, background)


def test_fewer_frames_than_moments(folder: Path) -> None:
    """Those of irregular times too; the text has the time of each."""
    conversation = asking(folder, "sparse.mp4")
    (item,) = PREPARER.sample(conversation, folder).visuals
    assert [read_number(picture) for picture in resized(item.frames)] == [0, 1, 2, 3, 4, 5]
    assert item.frames.pts_seconds.tolist() == pytest.approx(SPARSE)
    assert [tuple(item.frames.pixels.shape[2:])] == target_sizes([(6, HEIGHT, WIDTH)], [1], 8, BUDGET)
    text = prompt_text(conversation, [item], 8)
    assert text.count("Time ") == 6


def resized(frames: Frames) -> Tensor:
    return torch.nn.functional.interpolate(frames.pixels.float(), (HEIGHT, WIDTH), mode="nearest")


def test_moments_on_one_frame_though_the_file_has_enough(folder: Path) -> None:
    """Sixty moments for 62 frames, of which 53 lie on the frame that stands still from 5.9 s to 58.5 s."""
    (item,) = PREPARER.sample(asking(folder, "burst.mp4"), folder).visuals
    assert item.frames.pts_seconds.tolist() == pytest.approx(SHOWN)
    assert [tuple(item.frames.pixels.shape[2:])] == target_sizes([(8, HEIGHT, WIDTH)], [1], 8, BUDGET)


def test_packed_samples_stay_within_what_was_planned(folder: Path) -> None:
    conversation = asking(folder, "burst.mp4")
    planned = sum(plan.num_tokens(8) for plan in PREPARER.plan(conversation, folder)[1] if plan)
    packed = replace(PREPARER, is_packed=True).sample(conversation, folder)
    assert len(packed.visuals[0].frames) == 8
    assert int(packed.is_placeholder.sum()) <= planned


def test_repeats_are_kept_where_released_weights_are_asked(folder: Path) -> None:
    keeping = with_settings(PREPARER, sampling=SamplingConfig(repeats="keep"))
    (item,) = keeping.sample(asking(folder, "burst.mp4"), folder).visuals
    assert item.frames.pts_seconds.tolist() == pytest.approx([*SHOWN[:6], *[5.9] * 53, 59.0])
    ticks = with_settings(keeping, sampling=SamplingConfig(repeats="keep", phase="end"))
    conversation = asking(folder, "burst.mp4")
    (item,) = ticks.sample(conversation, folder).visuals
    assert item.frames.pts_seconds.tolist() == list(range(len(item.frames)))  # each with a time of its own


def test_videos_share_what_repeats_leave(folder: Path) -> None:
    items = PREPARER.sample(asking(folder, "burst.mp4", "sparse.mp4"), folder).visuals
    assert [len(item.frames) for item in items] == [8, 6]
    shapes = [(count, HEIGHT, WIDTH) for count in (8, 6)]
    assert [tuple(item.frames.pixels.shape[2:]) for item in items] == target_sizes(shapes, [1, 1], 8, BUDGET)


def test_a_video_without_repeats_is_decoded_once(folder: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "plain.mp4", 40, 10, *h264())
    reader = Counting()
    reader.calls = []
    replace(PREPARER, reader=reader).sample(asking(tmp_path, "plain.mp4"), tmp_path)
    assert [count for count, _ in reader.calls] == [4]


@pytest.mark.parametrize("row", [{}, {"start_time": 45.0, "end_time": 95.0}, {"start_time": 50.5, "end_time": 50.9}])
def test_the_index_plans_for_no_less(row: dict[str, float], folder: Path, tmp_path: Path) -> None:
    """An upper bound, as the times of frames are not in it."""
    conversation = asking(folder, "sparse.mp4", **row)
    text = TextCounter(PREPARER.settings.tokenizer, "tiny")
    source = open_source("test", SourceConfig([str(folder / "rows.jsonl")], str(folder)))
    index: Index = build_index([source], tmp_path, 0, 60.0, text)
    counts = tokens(index, PREPARER.settings, text)
    sample = PREPARER.sample(conversation, folder)
    visual = sum(item.num_visual_tokens(8) for item in sample.visuals)
    patches = sum(rows * columns * count for count, rows, columns in (item.grid(8) for item in sample.visuals))
    assert counts.is_usable.all()
    assert counts.llm_tokens[0] >= sample.input_ids.numel()
    assert counts.visual_tokens[0] >= visual
    assert counts.patches[0] >= patches
    assert counts.frames[0] >= len(sample.visuals[0].frames)


def test_a_stream_that_stands_still_continues(folder: Path) -> None:
    """The screen of 3 s is shown until 50 s: a turn at 40 s is kept, after two frames."""
    talk = [{"role": role, "content": f"{role} {time}", "time": time}
            for role, time in (("user", 0.0), ("assistant", 40.0), ("assistant", 99.5))]  # fmt: skip
    row = {"stream": True, "video": "sparse.mp4", "conversation": talk}
    path = write_rows(folder / "stream.jsonl", [row])
    sample = PREPARER.sample(read_manifest(path, "test", folder)[0], folder)
    text = tiny_tokenizer().decode(sample.input_ids)  # pyright: ignore[reportAttributeAccessIssue] (transformers' own)
    assert text.count("Time ") == 6
    assert text[: text.index("assistant 40")].count("Time ") == 2
    assert "assistant 99.5" in text
