"""Prompts of a benchmark against the samples of training: the same bytes; subtitles where their frames are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.conversation import MediaPart, TextPart
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.evaluation.prompting import build_prompt, conversation_of
from lightning_apollo.evaluation.question import Question, Subtitle
from lightning_apollo.structures import ClipShape, Sample
from tests.media_files import write_clip
from tests.small_data import tiny_tokenizer, turns, with_settings, write_pictures, write_rows

FRAMES = Preparer(
    Preprocessing(
        tokenizer=tiny_tokenizer(),
        patch_size=8,
        image_merge_size=1,
        video_merge_size=2,
        sampling=SamplingConfig(fps=1.0),
        budget=BudgetConfig(token_budget=64, min_tokens=4, max_length=512),
        system_prompt="Answer.",
    )
)
CLIPS = with_settings(
    FRAMES,
    sampling=SamplingConfig(kind="clips", fps=2.0, clip_frames=2, max_clips=4),
    clip=ClipShape(num_frames=2, num_tokens=4, image_size=32),
)
SUBTITLES = (
    Subtitle(0.9, 1.4, "one"),  # while the frame of second 1 plays
    Subtitle(1.6, 2.9, "two"),  # second 2; the middle is behind it
    Subtitle(2.9, 3.2, "three"),  # second 3
    Subtitle(1.1, 1.2, "nowhere"),  # between two frames
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", num_frames=40, fps=10)
    write_pictures(folder, 2)
    return folder


def about(*media: MediaPart, placement: str = "above", subtitles: tuple[Subtitle, ...] = ()) -> Question:
    parts = (*media, TextPart("What comes first?"))
    return Question("q", parts, ("red",), "same_text", subtitles=subtitles, subtitle_placement=placement)


def assert_same_bytes(prompt: Sample, trained: Sample) -> None:
    """The sample of training begins with the whole prompt and shows the very same pixels at the very same times."""
    num_asked = len(prompt.input_ids)
    torch.testing.assert_close(prompt.input_ids, trained.input_ids[:num_asked], rtol=0, atol=0)
    assert int((trained.labels[:num_asked] != -100).sum()) == 0
    assert trained.num_labels == len(trained.input_ids) - num_asked - 1  # the answer and its end, not the line break
    assert len(prompt.visuals) == len(trained.visuals) > 0
    for asked, learnt in zip(prompt.visuals, trained.visuals, strict=True):
        assert asked.frames.pixels.numpy().tobytes() == learnt.frames.pixels.numpy().tobytes()
        assert asked.frames.pts_seconds.tolist() == learnt.frames.pts_seconds.tolist()
        assert (asked.merge_size, asked.modality) == (learnt.merge_size, learnt.modality)


@pytest.mark.parametrize("preparer", [FRAMES, CLIPS], ids=["frames", "clips"])
@pytest.mark.parametrize("part", [(None, None), (1.0, 3.0)], ids=["whole", "part"])
def test_a_video_is_shown_as_in_training(
    preparer: Preparer, part: tuple[float | None, float | None], root: Path
) -> None:
    times = {} if part[0] is None else {"start_time": part[0], "end_time": part[1]}
    row = {"video": "clip.mp4", "conversations": turns("<video>\nWhat comes first?", "red")} | times
    trained = preparer.sample(read_manifest(write_rows(root / "row.jsonl", [row]), "x", root)[0], root)
    assert_same_bytes(build_prompt(about(MediaPart("video", "clip.mp4", *part)), preparer, root), trained)


def test_images_are_shown_as_in_training(root: Path) -> None:
    row = {"image": ["000.png", "001.png"], "conversations": turns("<image><image>\nWhat comes first?", "red")}
    trained = FRAMES.sample(read_manifest(write_rows(root / "row.jsonl", [row]), "x", root)[0], root)
    question = about(MediaPart("image", "000.png"), MediaPart("image", "001.png"))
    assert_same_bytes(build_prompt(question, FRAMES, root), trained)


class Spelling:
    """A tokenizer of characters, so that a prompt can be read back."""

    specials = ("<image>", "<|im_start|>", "<|im_end|>", "<|vid_start|>", "<|vid_end|>")

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        return [ord(character) + len(self.specials) for character in text]

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return self.specials.index(tokens)

    def read(self, sample: Sample) -> str:
        """The turn of the user, with each run of placeholders written as #."""
        text, previous = "", None
        for token in sample.input_ids.tolist():
            if token >= len(self.specials):
                text += chr(token - len(self.specials))
            elif token or previous:  # one sign for a run of zeros
                text += "|" if token else "#"
            previous = token
        return text.split("|user\n")[1].split("|")[0]


SPELT = {
    name: with_settings(preparer, tokenizer=Spelling()) for name, preparer in (("frames", FRAMES), ("clips", CLIPS))
}
CLIP = MediaPart("video", "clip.mp4")


def read(question: Question, preparer: Preparer, root: Path) -> str:
    return Spelling().read(build_prompt(question, preparer, root))


def test_subtitles_above_are_those_of_shown_frames(root: Path) -> None:
    """Frames play at 0, 1, 2 and 3 s."""
    assert read(about(CLIP, subtitles=SUBTITLES), SPELT["frames"], root) == (
        "Time 0.0s:#,Time 1.0s:#,Time 2.0s:#,Time 3.0s:#\n"
        "This video's subtitles are listed below:\none\ntwo\nthree\nWhat comes first?"
    )
    long = about(
        CLIP, subtitles=(Subtitle(-1, 1.5, "long"), Subtitle(0.5, 9, "longer"))
    )  # for every frame the first one
    assert read(long, SPELT["frames"], root).endswith("below:\nlong\nlong\nlonger\nlonger\nWhat comes first?")
    nothing = about(CLIP, subtitles=(Subtitle(1.1, 1.2, "nowhere"),))
    assert read(nothing, SPELT["frames"], root).endswith("#\nWhat comes first?")


def test_subtitles_between_stand_in_front_of_the_first_frame_after_their_middle(root: Path) -> None:
    """Middles: 1.15, 2.25 and 3.05 s."""
    question = about(CLIP, placement="between", subtitles=SUBTITLES[::-1])
    assert read(question, SPELT["frames"], root) == (
        "Time 0.0s:#,Time 1.0s:#\noneTime 2.0s:#\ntwoTime 3.0s:#\nthreeWhat comes first?"
    )


@pytest.mark.parametrize("name", ["frames", "clips"])
def test_cutting_a_video_changes_none_of_its_pixels(name: str, root: Path) -> None:
    plain = build_prompt(about(CLIP), SPELT[name], root)
    cut = build_prompt(about(CLIP, placement="between", subtitles=SUBTITLES), SPELT[name], root)
    assert len(cut.visuals) > len(plain.visuals) == 1
    assert torch.equal(torch.cat([item.frames.pixels for item in cut.visuals]), plain.visuals[0].frames.pixels)
    assert int(cut.is_placeholder.sum()) == int(plain.is_placeholder.sum())


def test_clips_keep_their_times_where_the_video_is_cut(root: Path) -> None:
    """Clips of a second each begin at 0, 1, 2 and 3 s."""
    question = about(CLIP, placement="between", subtitles=SUBTITLES[1:2])
    assert read(question, SPELT["clips"], root) == (
        "clip from 00:00-00:01:#\nclip from 00:01-00:02:#\nclip from 00:02-00:03:#\ntwoclip from 00:03-00:04:#\n"
        "What comes first?"
    )


@pytest.mark.parametrize("placement", ["above", "between"])
def test_who_sees_nothing_reads_no_subtitles(placement: str, root: Path) -> None:
    blind = replace(SPELT["frames"], visuals="blind")
    assert read(about(CLIP, placement=placement, subtitles=SUBTITLES), blind, root) == "What comes first?"


@pytest.mark.parametrize("placement", ["above", "between"])
def test_a_single_frame_has_the_subtitles_of_its_moment(placement: str, root: Path) -> None:
    single = replace(SPELT["frames"], visuals="single_frame")
    always = (Subtitle(-1.0, 9.0, "always"), Subtitle(7.0, 9.0, "later"))
    text = read(about(CLIP, placement=placement, subtitles=always), single, root)
    assert text.startswith("#\n")
    assert "always" in text
    assert "later" not in text


def test_the_conversation_is_one_turn_of_the_user() -> None:
    conversation = conversation_of(about(CLIP))
    assert [message.role for message in conversation.messages] == ["user"]
    assert conversation.media == (CLIP,)
