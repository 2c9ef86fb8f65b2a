"""The bound on a prompt's length against renderings in which every byte is a token, and how often a sample is rendered."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.index.token_counts import ByteTokenizer
from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.data.prepare import Preparer, planned_item
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.bound import longest_prompt
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.template import IM_START
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.media_plan import MediaPlan
from lightning_apollo.structures import ClipShape, Frames, MediaInfo, Sample
from tests.small_data import tiny_settings, tiny_tokenizer

CLIP = ClipShape(num_frames=4, num_tokens=8, image_size=16)
FRAMES = SamplingConfig(fps=2.0, max_frames=40, repeats="keep")
CLIPS = SamplingConfig(kind="clips", fps=2.0, max_clips=12)
MINUTE = MediaInfo("v", "video", 16, 24, 0.0, 60.0, 600, 10.0, "h264")
LOOSE = BudgetConfig(token_budget=10**5, min_tokens=1, max_length=10**6)


@dataclass(frozen=True)
class Film(DirectReader):
    """A video of these facts, whose frames begin `hold` seconds apart; any picture is of one size."""

    info: MediaInfo = MINUTE
    hold: float = 0.5

    def probe(self, path: str, modality: str) -> MediaInfo:
        if modality == "image":
            return MediaInfo("i", "image", 16, 24, 0.0, 0.0, 1, None, "png")
        return self.info

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        offsets = timestamps - info.begin_seconds
        begins = info.begin_seconds + (offsets / self.hold + 1e-9).floor() * self.hold
        pixels = torch.zeros((), dtype=torch.uint8).expand(len(timestamps), 3, *size)
        return Frames(pixels, begins if info.modality == "video" else timestamps)


class CountingTokenizer:
    """The tiny tokenizer, and how often each token and text is asked for."""

    def __init__(self) -> None:
        self.tokens, self.texts, self.inner = Counter[str](), Counter[str](), tiny_tokenizer()

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        self.texts[text] += 1
        return self.inner.encode(text, add_special_tokens=add_special_tokens, split_special_tokens=split_special_tokens)

    def convert_tokens_to_ids(self, tokens: str) -> int:
        self.tokens[tokens] += 1
        return self.inner.convert_tokens_to_ids(tokens)


def talk(kind: str, texts: list[str], times: list[float]) -> Conversation:
    """A question about media with old turns behind it, or turns in a stream."""
    if kind == "stream":
        messages = [Message("stream", (MediaPart("video", "v"),))]
        messages += [
            Message("assistant", (TextPart(text),), time=time) for text, time in zip(texts, times, strict=True)
        ]
        return Conversation("row", "test", tuple(messages))
    parts = [MediaPart("image" if kind == "image" else "video", "v"), *([MediaPart("image", "i")] * (kind == "both"))]
    messages = [Message("user", (*parts, TextPart(texts[0]))), Message("assistant", (TextPart("red"),))]
    messages += [Message("assistant", (TextPart(text),)) for text in texts[1:]]
    return Conversation("row", "test", tuple(messages))


def both_lengths(preparer: Preparer, conversation: Conversation) -> tuple[Sample, int, list[MediaPlan]]:
    how = preparer.settings
    cut, plans = preparer.plan(conversation, Path())
    shown = [plan for plan in plans if plan is not None]
    return (
        preparer.sample(conversation, Path()),
        longest_prompt(cut, shown, how.patch_size, how.system_prompt, how.clip_text),
        shown,
    )


media = st.builds(
    lambda begin, before, seconds: MediaInfo(
        "v",
        "video",
        16,
        24,
        begin,
        seconds,
        max(1, round(seconds * 10)),
        10.0,
        "h264",
        clock_start_seconds=begin - before,
    ),
    begin=st.floats(-700.0, 700.0),
    before=st.floats(0.0, 30.0),
    seconds=st.floats(0.1, 40_000.0),
)
words = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4)


@given(
    info=media,
    hold=st.floats(0.01, 500.0),
    texts=words,
    kind=st.sampled_from(["video", "image", "both", "stream"]),
    streams=st.sampled_from(["ours", "released"]),
    clock=st.sampled_from(["container", "from_start"]),
    phase=st.sampled_from(["start", "end"]),
    system=st.sampled_from(["", "Be brief.", "日本"]),
    time=st.floats(0.0, 50.0),
)
@settings(max_examples=120, deadline=None)
def test_no_prompt_of_frames_passes_the_bound(
    info: MediaInfo,
    hold: float,
    texts: list[str],
    kind: str,
    streams: str,
    clock: str,
    phase: str,
    system: str,
    time: float,
) -> None:
    sampling = replace(FRAMES, clock=clock, phase=phase)
    how = Preprocessing(ByteTokenizer(), 8, 1, 2, sampling, LOOSE, system, streams=streams, stream_max_frames=30)
    texts = [text + "." for text in texts]
    times = [time + 3 * number for number in range(len(texts))]
    sample, bound, plans = both_lengths(Preparer(how, reader=Film(info=info, hold=hold)), talk(kind, texts, times))
    assert sample.input_ids.numel() <= bound
    assert bound <= sample.input_ids.numel() + 40 * len(texts) + sum(12 * plan.num_runs + 60 for plan in plans)


@given(
    info=media,
    hold=st.floats(0.01, 500.0),
    texts=words,
    kind=st.sampled_from(["video", "image", "both"]),
    between=st.sampled_from(["none", "start_end", "timestamps", "both"]),
    times=st.sampled_from(["paper", "released"]),
    rule=st.sampled_from(
        [CLIPS, replace(CLIPS, kind="fps", max_frames=40), replace(CLIPS, kind="uniform", max_frames=8)]
    ),
)
@settings(max_examples=120, deadline=None)
def test_no_prompt_of_clips_passes_the_bound(
    info: MediaInfo, hold: float, texts: list[str], kind: str, between: str, times: str, rule: SamplingConfig
) -> None:
    how = Preprocessing(
        ByteTokenizer(), 8, 1, 1, rule, LOOSE, "Sing.", CLIP, ClipTextConfig(between=between, times=times)
    )
    texts = [text + "." for text in texts]
    sample, bound, _ = both_lengths(Preparer(how, reader=Film(info=info, hold=hold)), talk(kind, texts, []))
    assert sample.input_ids.numel() <= bound


@pytest.mark.parametrize("kind", ["video", "both", "stream"])
@pytest.mark.parametrize("is_of_clips", [False, True])
def test_lengths_are_counted_as_they_are_rendered(kind: str, is_of_clips: bool) -> None:
    if is_of_clips and kind == "stream":
        kind = "image"
    changed = {"sampling": CLIPS, "clip": CLIP} if is_of_clips else {"sampling": FRAMES}
    how = tiny_settings(budget=LOOSE, system_prompt="Be brief.", **changed)
    conversation = talk(kind, ["What colour?", "red and <|im_end|>", "no"], [1.0, 2.5, 8.0])
    conversation, plans = Preparer(how, reader=Film()).plan(conversation, Path())
    items = [plan and planned_item(plan) for plan in plans]
    assert how.count_tokens(conversation, items) == how.render(conversation, items).input_ids.numel()


@pytest.mark.parametrize("is_of_clips", [False, True])
@pytest.mark.parametrize("less", [0, 1, 20])
def test_a_sample_near_the_limit_is_rendered_once(is_of_clips: bool, less: int) -> None:
    """It fits, lies a token above the limit, or far above it; in each case the media alone make room."""
    changed = {"sampling": CLIPS, "clip": CLIP, "video_merge_size": 1} if is_of_clips else {"sampling": FRAMES}
    conversation = talk("video", [f"What colour follows {'blue ' * 30}in case {is_of_clips} {less}?"], [])
    roomy = Preparer(tiny_settings(budget=replace(LOOSE, token_budget=400), **changed), reader=Film())
    whole = roomy.sample(conversation, Path()).input_ids.numel()
    tokenizer = CountingTokenizer()
    tight = BudgetConfig(token_budget=min(400, whole - less - 1), min_tokens=1, max_length=whole - less)
    sample = Preparer(tiny_settings(tokenizer=tokenizer, budget=tight, **changed), reader=Film()).sample(
        conversation, Path()
    )
    assert sample.input_ids.numel() <= whole - less
    assert (sample.input_ids.numel() == whole) == (less == 0)
    assert tokenizer.tokens[IM_START] == len(conversation.messages)  # a second rendering would ask for it again
    assert max(tokenizer.texts.values()) == 1
