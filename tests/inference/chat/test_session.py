"""Conversations with a model: against the function that answers one question, and against a row of the same turns."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from apollo_kernels import Layout
from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import Conversation, MediaPart, TextPart
from lightning_apollo.inference.answer import answer
from lightning_apollo.inference.chat.session import Chat, ChatError, ChatReply, read_question, stream_reply
from lightning_apollo.inference.generate import generate
from lightning_apollo.inference.trained import load_checkpoint
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.reduce import select
from lightning_apollo.structures import VisualBatch
from tests.small_data import with_settings
from tests.weights.stages import videollama3_with_clips

QUESTION, NEXT = "Which colour came first?", "And then?"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs").resolve()


@pytest.fixture(scope="module")
def trained(uploads: Path) -> TrainedModel:
    return load_checkpoint(str(videollama3_with_clips(uploads)[1]))


@pytest.fixture(scope="module")
def clip(trained: TrainedModel, uploads: Path) -> str:
    return str(min((uploads / "shapes/clips").iterdir()))


def finished(text: str) -> str:
    """Without the first bytes of a character whose others did not come."""
    return text.rstrip("\ufffd")


def last(trained: TrainedModel, chat: Chat, text: str, files: list[str], uploads: Path) -> tuple[Chat, list[ChatReply]]:
    asked = read_question(trained, text, files, uploads)
    replies = list(stream_reply(trained, chat, asked, max_new_tokens=8))
    return chat.answered(asked, replies[-1].text), replies


def test_the_first_turn_says_what_answer_says(trained: TrainedModel, uploads: Path, clip: str) -> None:
    _, replies = last(trained, Chat(), QUESTION, [clip], uploads)
    assert replies[-1].text == finished(answer(trained, QUESTION, videos=[clip], max_new_tokens=8))
    assert [reply.num_tokens for reply in replies] == list(range(1, len(replies) + 1))
    assert all(later.text.startswith(earlier.text) for earlier, later in pairwise(replies))
    assert [reply.is_cut for reply in replies] == [number == 8 for number in range(1, len(replies) + 1)]
    times = [reply.seconds for reply in replies]
    assert times == sorted(times)
    assert 0 < replies[-1].first_token_seconds == times[0]
    assert replies[0].tokens_per_second is None
    speed = (len(times) - 1) / (times[-1] - times[0])
    assert replies[-1].tokens_per_second == pytest.approx(speed)


def test_the_second_turn_sees_the_first(trained: TrainedModel, uploads: Path, clip: str) -> None:
    """As a row of training data with the same turns is laid out."""
    chat, first = last(trained, Chat(), QUESTION, [clip], uploads)
    chat, second = last(trained, chat, NEXT, [], uploads)
    row = {
        "video": clip,
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first[-1].text},
            {"role": "user", "content": NEXT},
            {"role": "assistant", "content": "?"},
        ],
    }
    prompt = trained.preparer.prompt(Conversation("row", "row", parse_row(row)), Path())
    (ids,) = generate(trained.model, [prompt], trained.end_id, 8)
    assert second[-1].text == finished(str(trained.tokenizer.decode(ids, skip_special_tokens=True)).strip())
    assert second[-1].text != finished(answer(trained, NEXT, max_new_tokens=8))
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert second[-1].seen.num_text_tokens == int((~prompt.is_placeholder).sum())


def test_what_was_seen_is_what_the_model_got(trained: TrainedModel, uploads: Path, clip: str) -> None:
    _, replies = last(trained, Chat(), QUESTION, [clip], uploads)
    seen = replies[0].seen
    prompt = trained.preparer.prompt(
        Conversation("c", "c", (read_question(trained, QUESTION, [clip], uploads),)), Path()
    )
    (item,) = prompt.visuals
    assert [frame.seconds for frame in seen.frames] == item.frames.pts_seconds.tolist()
    visual = VisualBatch.from_items(prompt.visuals, prompt.patch_size)
    layout = Layout.of(visual.sizes, visual.merge_sizes, visual.patch_size)
    kept = select(visual, layout, trained.model.reducer).run_tokens  # pyright: ignore
    assert [frame.num_kept for frame in seen.frames] == kept
    assert sum(kept) == seen.num_kept_tokens < seen.num_visual_tokens == visual.num_visual_tokens
    assert seen.token_budget == 64
    whole = seen.frames[0]
    assert torch.equal(whole.pixels, item.frames.pixels[0])
    assert whole.num_kept == whole.num_tokens


def test_files_are_taken_for_what_they_are(trained: TrainedModel, uploads: Path, clip: str) -> None:
    picture = uploads / "picture.mp4"
    picture.write_bytes(min((uploads / "shapes/images").iterdir()).read_bytes())
    asked = read_question(trained, QUESTION, [clip, str(picture)], uploads)
    assert asked.parts == (MediaPart("image", str(picture)), MediaPart("video", clip), TextPart(QUESTION))


def test_what_cannot_be_asked_is_one_line_without_folders(
    trained: TrainedModel, uploads: Path, clip: str, tmp_path: Path
) -> None:
    broken = uploads / "broken.mp4"
    broken.write_bytes(b"no video")
    cut = uploads / "cut.mp4"
    cut.write_bytes(Path(clip).read_bytes()[:-600])
    for text, files, message in (
        ("  ", [clip], "no question"),
        (QUESTION, [str(broken)], "broken.mp4: neither a video"),
        (QUESTION, [str(cut)], "cut.mp4: no frames in the video stream"),
        (QUESTION, ["/etc/passwd"], "passwd: no file that was uploaded here"),
        ("<video> or <video>?", [clip], "shows 2 <video>"),
    ):
        with pytest.raises(ChatError, match=message) as caught:
            read_question(trained, text, files, uploads)
        assert str(uploads) not in str(caught.value)
        assert "\n" not in str(caught.value)
    gone = uploads / "gone.mp4"
    gone.write_bytes(Path(clip).read_bytes())
    asked = read_question(trained, QUESTION, [str(gone)], uploads)
    gone.unlink()
    with pytest.raises(ChatError, match=r"^gone\.mp4: "):
        list(stream_reply(trained, Chat(), asked))


def test_a_conversation_above_the_limit_is_refused(trained: TrainedModel, uploads: Path, clip: str) -> None:
    budget = replace(trained.preparer.settings.budget, max_length=70)
    short = replace(trained, preparer=with_settings(trained.preparer, budget=budget))
    asked = read_question(short, QUESTION * 20, [clip], uploads)
    with pytest.raises(ChatError, match=r"limit.*\b70\b"):
        list(stream_reply(short, Chat(), asked))


def test_an_answer_that_ends_at_once_is_one_reply(trained: TrainedModel, uploads: Path, clip: str) -> None:
    asked = read_question(trained, QUESTION, [clip], uploads)
    (reply,) = stream_reply(trained, Chat(), asked, max_new_tokens=0)
    assert (reply.text, reply.num_tokens, len(reply.seen.frames)) == ("", 0, 8)
