"""The text around clips: every format against strings written by hand, and where its tokens go."""

from __future__ import annotations

import pytest
import torch

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.encode import ChatTokenizer, prompt_text, render_conversation, render_prompt
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.structures import ClipShape, Frames, VisualItem

CLIP = ClipShape(num_frames=2, num_tokens=3, image_size=8)
PATCH = 4
RUN = "<image>*3"
START, END = "<|vid_start|>", "<|vid_end|>"
FILM, PICTURE = MediaPart("video", "v.mp4"), MediaPart("image", "a.jpg")


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(str(conf_folder() / "model" / "tiny_tokenizer"))


def frames(num_frames: int) -> Frames:
    return Frames(torch.zeros(num_frames, 3, 6, 8, dtype=torch.uint8), torch.arange(num_frames, dtype=torch.float64))


def film(*spans: tuple[float, float], duration: float = 0.0) -> VisualItem:
    seconds = torch.tensor(spans, dtype=torch.float64)
    return VisualItem(frames(2 * len(spans)), "video", 1, "v.mp4", CLIP, seconds, duration or spans[-1][1])


def picture() -> VisualItem:
    return VisualItem(frames(1), "image", 1, "a.jpg", CLIP)


def asked(*parts: MediaPart) -> Conversation:
    return Conversation("rows:1", "test", (Message("user", (*parts, TextPart("Q"))),))


def shown(items: list[VisualItem], between: str, times: str = "paper") -> str:
    """Text between `user` and the question."""
    parts = [FILM if item.modality == "video" else PICTURE for item in items]
    text = prompt_text(asked(*parts), items, PATCH, clip_text=ClipTextConfig(between, times))
    head, tail = "<|im_start|>user\n", "Q<|im_end|>\n<|im_start|>assistant\n"
    assert text.startswith(head)
    assert text.endswith(tail)
    return text.removeprefix(head).removesuffix(tail)


TWO = film((0.0, 2.0), (2.0, 4.0))
SERIES = "You are provided the following series of two, 2 second clips from a 0:00:04 [H:MM:SS] video.\n"


@pytest.mark.parametrize(
    ("between", "times", "expected"),
    [
        ("none", "paper", f"{RUN}{RUN}\n"),
        ("start_end", "paper", f"{START}{RUN}{END}{START}{RUN}{END}\n"),
        ("timestamps", "paper", f"clip from 00:00-00:02:{RUN}\nclip from 00:02-00:04:{RUN}\n"),
        (
            "both",
            "paper",
            f"clip from 00:00-00:02:{START}{RUN}{END}\nclip from 00:02-00:04:{START}{RUN}{END}\n",
        ),
        ("none", "released", f"{RUN}{RUN}\n\n"),
        ("start_end", "released", f"{START}{RUN}{END}{START}{RUN}{END}\n\n"),
        ("timestamps", "released", f"{SERIES}0.0-2.0 seconds: {RUN},\n2.0-4.0 seconds: {RUN}\n\n"),
        (
            "both",
            "released",
            f"{SERIES}0.0-2.0 seconds: {START}{RUN}{END},\n2.0-4.0 seconds: {START}{RUN}{END}\n\n",
        ),
    ],
)
def test_every_format_of_two_clips(between: str, times: str, expected: str) -> None:
    assert shown([TWO], between, times) == expected


def test_seconds_are_rounded_and_minutes_continue() -> None:
    """Half a second rounds up, so that clips of 1.5 s meet; an hour is 60 minutes."""
    item = film((0.0, 1.5), (1.5, 3.0), (3.0, 4.5), (59.4, 60.9), (3599.6, 3725.0))
    times = ["00:00-00:02", "00:02-00:03", "00:03-00:05", "00:59-01:01", "60:00-62:05"]
    assert shown([item], "timestamps") == "\n".join(f"clip from {time}:{RUN}" for time in times) + "\n"


def test_the_released_sentence_names_number_length_and_duration() -> None:
    """Clips as long as the longest of them; the last one may end with the video."""
    item = film(*((1.5 * k, 1.5 * k + 1.5) for k in range(21)), (31.5, 32.25), duration=3723.6)
    text = shown([item], "timestamps", "released")
    assert text.startswith(
        "You are provided the following series of twenty-two, 1.5 second clips from a 1:02:04 [H:MM:SS] video.\n"
        f"0.0-1.5 seconds: {RUN},\n1.5-3.0 seconds: {RUN},\n"
    )
    assert text.endswith(f",\n31.5-32.2 seconds: {RUN}\n\n")
    uneven = film((0.0, 4 / 3), (4 / 3, 8 / 3))
    assert "of two, 1.33 second clips from a 0:00:03 [" in shown([uneven], "timestamps", "released")


@pytest.mark.parametrize(
    ("between", "times", "expected"),
    [
        ("timestamps", "paper", f"{RUN}\n"),
        ("both", "paper", f"{START}{RUN}{END}\n"),
        ("timestamps", "released", f"{RUN}\n\n"),
    ],
)
def test_an_image_is_one_run_without_a_time(between: str, times: str, expected: str) -> None:
    assert shown([picture()], between, times) == expected
    assert shown([picture(), picture()], between, times) == expected * 2


def test_images_and_videos_keep_their_order() -> None:
    items = [picture(), film((0.0, 2.0)), picture()]
    assert shown(items, "timestamps") == f"{RUN}\nclip from 00:00-00:02:{RUN}\n{RUN}\n"


def test_bounds_are_single_tokens_behind_those_of_videollama3(tokenizer: ChatTokenizer) -> None:
    """Ids of the tokens that were there before stay as they are."""
    added = ["<image>", "<|stream_start|>", "<|stream_end|>", START, END]
    assert [tokenizer.convert_tokens_to_ids(token) for token in added] == [3, 4, 5, 500, 501]
    text = "<|vid_start|> of an annotation"
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert 500 not in ids


def test_ids_of_two_clips_written_out(tokenizer: ChatTokenizer) -> None:
    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    opened, closed, image, start, end = (
        tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>", "<image>", START, END)
    )
    sample = render_prompt(asked(FILM), [TWO], tokenizer, PATCH, clip_text=ClipTextConfig("both"))
    run = [start, image, image, image, end]
    stamps = [ids("user\nclip from 00:00-00:02:"), ids("\nclip from 00:02-00:04:")]
    question = [*ids("\nQ"), closed, *ids("\n"), opened, *ids("assistant\n")]
    assert sample.input_ids.tolist() == [opened, *stamps[0], *run, *stamps[1], *run, *question]
    assert torch.equal(sample.is_placeholder, sample.input_ids == image)
    assert int(sample.is_placeholder.sum()) == TWO.num_visual_tokens(PATCH) == 6


def test_a_training_sample_learns_its_answer_alone(tokenizer: ChatTokenizer) -> None:
    conversation = Conversation(
        "rows:1", "test", (*asked(FILM).messages, Message("assistant", (TextPart("red"),)))
    )  # fmt: skip
    sample = render_conversation(conversation, [TWO], tokenizer, PATCH, clip_text=ClipTextConfig("both", "released"))
    learnt = sample.labels[sample.labels >= 0].tolist()
    red = tokenizer.encode("red", add_special_tokens=False, split_special_tokens=True)
    assert learnt == [*red, tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_the_text_of_frames_does_not_know_of_clips() -> None:
    """VideoLLaMA 3's prompt, whatever is said about clips; 2 × 2 patches of 4 pixels a frame."""
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    item = VisualItem(Frames(pixels, torch.tensor([0.0, 1.5], dtype=torch.float64)), "video", 1, "v.mp4")
    still = VisualItem(Frames(pixels[:1], torch.zeros(1, dtype=torch.float64)), "image", 1, "a.jpg")
    for between, times in (("timestamps", "paper"), ("both", "released")):
        assert shown([item, still], between, times) == "Time 0.0s:<image>*4,Time 1.5s:<image>*4\n<image>*4\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"between": "commas"}, r'between .*"commas".*none, start_end, timestamps, both'),
        ({"times": "seconds"}, r'times .*"seconds".*paper, released'),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipTextConfig(**values)
