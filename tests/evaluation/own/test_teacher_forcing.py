"""The prompt and the loss of an answer against the preparer's own prompt and a loss computed in float64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.collate import collate
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.storage.roots import FolderRoot
from lightning_apollo.evaluation.own.teacher_forcing import answer_losses, answered_sample, prompt_of
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.structures import IGNORE_INDEX
from tests.evaluation.own.own_files import EXPECTED, read, write_own_rows
from tests.evaluation.test_prompting import CLIPS, FRAMES
from tests.small_data import write_rows
from tests.weights.stages import videollama3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_rows(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize(
    "preparer", [FRAMES, CLIPS, replace(FRAMES, visuals="blind")], ids=["frames", "clips", "blind"]
)
def test_the_prompt_is_that_of_the_preparer_and_the_answer_alone_is_labelled(manifest: Path, preparer) -> None:
    rows = read(manifest)
    for name, conversation in rows.conversations.items():
        sample = answered_sample(conversation, preparer, rows.root)
        prompt, wanted = prompt_of(sample), preparer.prompt(conversation, rows.root)
        assert torch.equal(prompt.input_ids, wanted.input_ids)
        assert bool((prompt.labels == IGNORE_INDEX).all())
        assert len(prompt.visuals) == len(wanted.visuals)
        for item, other in zip(prompt.visuals, wanted.visuals, strict=True):
            assert torch.equal(item.frames.pixels, other.frames.pixels)
            assert torch.equal(item.frames.pts_seconds, other.frames.pts_seconds)
        learnt = sample.input_ids[sample.labels != IGNORE_INDEX]
        assert str(preparer.settings.tokenizer.decode(learnt)) == EXPECTED[name] + "<|im_end|>"  # pyright: ignore
        assert torch.equal(sample.input_ids[: len(prompt.input_ids)], prompt.input_ids)


STREAM = {
    "stream": True,
    "video": ["clip.mp4"],
    "conversation": [
        {"role": "user", "time": 0.5, "content": "Count."},
        {"role": "assistant", "time": 1.5, "content": "One."},
        {"role": "assistant", "time": 2.5, "content": "Two."},
    ],
}


def stream(manifest: Path, num_turns: int) -> Conversation:
    path = write_rows(manifest.parent / "stream.jsonl", [STREAM])
    (conversation,) = read_manifest(path, "own", manifest.parent)
    *before, last = conversation.messages[: num_turns + 1]
    context = tuple(replace(turn, is_learnt=turn.role != "assistant") for turn in before)
    return replace(conversation, messages=(*context, last))


def test_of_a_stream_no_frame_behind_the_answer_is_shown(manifest: Path) -> None:
    """One frame a second: those of seconds 0 and 1 come before the answer at 1.5 s, that of second 2 before the one at 2.5 s."""
    root = FolderRoot(str(manifest.parent))
    for num_turns, seconds in ((2, [0.0, 1.0]), (3, [0.0, 1.0, 2.0])):
        sample = answered_sample(stream(manifest, num_turns), FRAMES, root)
        prompt = prompt_of(sample)
        (item,) = prompt.visuals
        assert item.frames.pts_seconds.tolist() == seconds
        assert str(FRAMES.settings.tokenizer.decode(prompt.input_ids)).endswith("<|im_start|>assistant\n")  # pyright: ignore
        assert sample.num_labels == int((sample.labels != IGNORE_INDEX).sum())
    late = replace(
        stream(manifest, 3),
        messages=tuple(replace(turn, time=99.0) if turn.time == 2.5 else turn for turn in stream(manifest, 3).messages),
    )
    with pytest.raises(ValueError, match=r"end.*'time'"):
        answered_sample(late, FRAMES, root)


def test_the_loss_is_that_of_the_answer_alone(manifest: Path, tmp_path: Path) -> None:
    """Packed together as one by one, and as log-probabilities summed in float64."""
    trained = load_trained(videollama3(tmp_path / "runs"))
    rows = read(manifest)
    samples = [answered_sample(c, trained.preparer, rows.root) for c in rows.conversations.values()]
    losses = answer_losses(trained, samples)
    for sample, loss in zip(samples, losses, strict=True):
        assert loss.num_tokens == int((sample.labels != IGNORE_INDEX).sum())
        with torch.inference_mode():
            output = trained.model(collate([sample], sample.patch_size))
        likely = output.logits.double().log_softmax(dim=1).gather(1, output.targets[:, None])
        assert output.targets.tolist() == sample.labels[sample.labels != IGNORE_INDEX].tolist()
        assert loss.loss_sum == pytest.approx(-float(likely.sum()), rel=1e-4)
    assert len({round(loss.loss_sum, 3) for loss in losses}) > 4
