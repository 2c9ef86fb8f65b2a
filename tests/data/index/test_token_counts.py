"""Counts from the index alone: equal to those of the real samples, with the media gone by then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter, TokenCounts, tokens
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.source import open_sources
from lightning_apollo.structures import ClipShape, Frames, MediaError, MediaInfo, Sample
from tests.media_files import ffmpeg, h264, write_clip, write_variable_rate
from tests.readers import ReaderWith
from tests.small_data import tiny_settings, turns, with_settings, write_pictures, write_rows

CLIP = ClipShape(num_frames=4, num_tokens=8, image_size=160)
CLIPS = {"sampling": SamplingConfig(kind="clips", fps=2.0), "clip": CLIP, "image_merge_size": 1, "video_merge_size": 1}
ROOMY = BudgetConfig(token_budget=200, min_tokens=4, max_length=1000)
FRAMES = Preparer(tiny_settings(budget=ROOMY, system_prompt="Be brief."))
TALK = [*turns("<video>\nWhat?", "red"), *turns("And <then> in " + "blue " * 130, "no"), *turns("Sure?", "Yes.")]
ROWS: list[dict[str, Any]] = [
    {"video": "ten.mp4", "conversations": turns("<video>\nWhat colour?", "red")},
    {"video": "ten.mp4", "start_time": 2.2, "end_time": 7.9, "conversations": turns("<video>\nWhat colour?", "red")},
    {"video": "variable.mp4", "conversations": turns("Look at this<video>and tell me.", "blue")},
    {"video": "late.mkv", "conversations": turns("<video>When?", "never")},
    {"video": "upright.mp4", "conversations": turns("<video>Which way?", "up")},
    {"video": ["ten.mp4", "late.mkv"], "conversations": turns("<video><video>Which?", "both")},
    {"image": "000.png", "conversations": turns("<image>\nWhat colour?", "red")},
    {"image": ["000.png", "001.png", "000.png"], "conversations": turns("<image>,<image> or <image>?", "red")},
    {"image": "001.png", "video": "ten.mp4", "conversations": turns("Is <image> in <video>?", "yes")},
    {"conversations": [{"from": "system", "value": "Sing."}, *turns("What follows two?", "Three.")]},
    {"video": "ten.mp4", "fps": 3, "max_frames": 5, "conversations": turns("<video>\nWhat colour?", "red")},
    {"video": ["ten.mp4", "late.mkv"], "fps": [0.5, None], "conversations": turns("<video><video>Which?", "both")},
    {"video": "ten.mp4", "conversations": TALK},
]
STREAM = {
    "stream": True,
    "video": ["ten.mp4"],
    "conversation": [
        {"role": "user", "content": "Watch.", "time": 0.0},
        {"role": "assistant", "content": "red", "time": 1.0},
        {"role": "assistant", "content": "green", "time": 7.3},
    ],
}


class Data:
    """Media and rows, their real samples, and an index of them, whose media are not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_pictures(folder, 2)
        write_clip(folder / "ten.mp4", 100, 10, *h264(keyframe_interval=10))
        write_variable_rate(folder / "variable.mp4")
        write_clip(folder / "late.mkv", 45, 10, *h264(), "-output_ts_offset", 3.5)
        write_clip(folder / "flat.mp4", 20, 10, *h264())
        ffmpeg("-i", folder / "flat.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", folder / "upright.mp4")
        write_rows(folder / "rows.jsonl", [*ROWS, STREAM])
        self.sources = open_sources({"rows": SourceConfig([str(folder / "rows.jsonl")], str(folder))}, ())
        self._indices: dict[str, Index] = {}

    def samples(self, preparer: Preparer) -> list[Sample | None]:
        """None where a sample cannot be made."""
        made: list[Sample | None] = []
        for row in range(len(ROWS) + 1):
            try:
                made.append(preparer.sample(self.sources[0][row], self.folder))
            except (ValueError, MediaError):
                made.append(None)
        return made

    def counts(self, preparer: Preparer, text: TextCounter | None) -> TokenCounts:
        key = "bytes" if text is None else text.identity
        if key not in self._indices:
            self._indices[key] = build_index(self.sources, self.folder / key, jobs=0, text=text)
        away = self.folder.with_name("away")
        self.folder.rename(away)  # whoever opens a file now finds none
        shutil.copytree(away / key, self.folder / key)
        try:
            return tokens(Index(self.folder / key), preparer.settings, text)
        finally:
            shutil.rmtree(self.folder)
            away.rename(self.folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("tokens") / "media"
    folder.mkdir()
    return Data(folder)


def counter(preparer: Preparer) -> TextCounter:
    settings = preparer.settings
    clip_text = None if settings.clip is None else settings.clip_text
    return TextCounter(settings.tokenizer, "tiny", settings.system_prompt, clip_text)


def play_on_time(info: MediaInfo, timestamps: Tensor, size: tuple[int, int]) -> Frames:
    """Frames that play at the very moments that were asked for; a token of a stamp depends on it."""
    return Frames(torch.zeros(len(timestamps), 3, *size, dtype=torch.uint8), timestamps)


def patches_of_frames(sample: Sample) -> list[int]:
    return [
        rows * columns for frames, rows, columns in (item.grid(8) for item in sample.visuals) for _ in range(frames)
    ]


PREPARERS: dict[str, Callable[[], Preparer]] = {
    "fps": lambda: FRAMES,
    "fps, thinned": lambda: with_settings(FRAMES, sampling=SamplingConfig(fps=4.0, max_frames=7)),
    "uniform": lambda: with_settings(FRAMES, sampling=SamplingConfig(kind="uniform", max_frames=6)),
    "a tight budget": lambda: with_settings(
        FRAMES, budget=BudgetConfig(token_budget=30, min_tokens=4, max_length=1000)
    ),
    "old turns make room": lambda: with_settings(
        FRAMES, budget=BudgetConfig(token_budget=150, min_tokens=4, max_length=240)
    ),
    "frames make room for text": lambda: with_settings(
        FRAMES, budget=BudgetConfig(token_budget=200, min_tokens=4, max_length=230)
    ),
    "clips": lambda: with_settings(FRAMES, **CLIPS),
    "clips make room for text": lambda: with_settings(
        FRAMES, **CLIPS, budget=BudgetConfig(token_budget=200, min_tokens=4, max_length=201)
    ),
    "clips, few": lambda: with_settings(
        FRAMES, **CLIPS, budget=BudgetConfig(token_budget=24, min_tokens=4, max_length=150)
    ),
    "clips, released text": lambda: with_settings(
        FRAMES, **CLIPS, clip_text=ClipTextConfig(between="both", times="released")
    ),
    "clips of frames, no text": lambda: with_settings(
        FRAMES, **{**CLIPS, "sampling": SamplingConfig(fps=1.0)}, clip_text=ClipTextConfig(between="none")
    ),
}


@pytest.mark.parametrize("name", PREPARERS)
def test_counts_are_those_of_the_samples(name: str, data: Data) -> None:
    preparer = PREPARERS[name]()
    samples, counts = data.samples(preparer), data.counts(preparer, counter(preparer))
    on_time = data.samples(replace(preparer, reader=ReaderWith(replacement=play_on_time)))
    is_sure = counts.is_exact | ~counts.is_usable  # what no old turns could make room for
    assert [bool(counts.is_usable[n]) for n in np.flatnonzero(is_sure)] == [
        samples[n] is not None for n in np.flatnonzero(is_sure)
    ]
    assert counts.is_usable[:10].all()
    num_equal = 0
    for number, sample in enumerate(samples):
        if sample is None:
            assert counts.llm_tokens[number] == (preparer.settings.budget.max_length if counts.is_usable[number] else 0)
            continue
        if number == len(ROWS):  # the stream, which loses frames where its turns leave no room for them
            assert counts.visual_tokens[number] >= int(sample.is_placeholder.sum())
            assert sample.input_ids.numel() <= counts.llm_tokens[number] <= preparer.settings.budget.max_length
            continue
        assert counts.visual_tokens[number] == int(sample.is_placeholder.sum())
        assert counts.frames[number] == sum(len(item.frames) for item in sample.visuals)
        if preparer.settings.clip is None:
            assert counts.patches[number] == sum(patches_of_frames(sample))
            assert counts.vision_squares[number] == sum(n**2 for n in patches_of_frames(sample))
        else:
            assert counts.patches[number] == sum(item.num_runs for item in sample.visuals) * 4 * 20**2
        if counts.is_exact[number]:
            assert counts.llm_tokens[number] == on_time[number].input_ids.numel()
            num_equal += counts.llm_tokens[number] == sample.input_ids.numel()
        else:
            assert sample.input_ids.numel() <= counts.llm_tokens[number] <= preparer.settings.budget.max_length
    assert (
        num_equal >= counts.is_exact[counts.is_usable].sum() - 2
    )  # clips whose frames have other times than asked for
    assert counts.is_exact[: len(ROWS) - 1].all()
    assert not (counts.is_exact & counts.is_usable)[len(ROWS)]  # the stream


def test_a_conversation_that_loses_turns_is_an_upper_bound(data: Data) -> None:
    preparer = PREPARERS["old turns make room"]()
    sample = data.samples(preparer)[len(ROWS) - 1]
    assert sample is not None
    counts = data.counts(preparer, counter(preparer))
    assert not counts.is_exact[len(ROWS) - 1]
    assert counts.visual_tokens[len(ROWS) - 1] == int(sample.is_placeholder.sum())
    assert sample.input_ids.numel() < counts.llm_tokens[len(ROWS) - 1] == 240


@pytest.mark.parametrize("name", PREPARERS)
def test_without_a_tokenizer_all_is_an_upper_bound(name: str, data: Data) -> None:
    preparer = PREPARERS[name]()
    samples, counts = data.samples(preparer), data.counts(preparer, None)
    assert not counts.is_exact.any()
    for number, sample in enumerate(samples):
        if sample is not None:
            assert counts.is_usable[number]
            assert counts.visual_tokens[number] >= int(sample.is_placeholder.sum())
            assert sample.input_ids.numel() <= counts.llm_tokens[number] <= preparer.settings.budget.max_length


def test_another_text_than_that_of_the_index_is_no_exact_count(data: Data) -> None:
    index = build_index(data.sources, data.folder / "index", jobs=0, text=counter(FRAMES))
    other = replace(counter(FRAMES), name="another")
    exact, bound = (tokens(index, FRAMES.settings, text) for text in (counter(FRAMES), other))
    assert not bound.is_exact.any()
    assert (bound.llm_tokens >= exact.llm_tokens).all()
    assert np.array_equal(bound.visual_tokens, exact.visual_tokens)
