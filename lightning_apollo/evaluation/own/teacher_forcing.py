"""Teacher forcing: the prompt before an answer of a training sample, and the loss of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_apollo.data.collate import collate
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.prompt.template import IM_END
from lightning_apollo.data.storage.roots import MediaRoot
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.structures import IGNORE_INDEX, Frames, Sample, VisualItem
from lightning_apollo.training.losses import token_loss_sum


@dataclass(frozen=True)
class AnswerLoss:
    """The cross entropy of the tokens of an expected answer, in nats, summed."""

    loss_sum: float
    num_tokens: int  # its end counts as one


def answered_sample(conversation: Conversation, preparer: Preparer, root: MediaRoot) -> Sample:
    """The training sample of a conversation up to its last answer, with labels on that answer alone.

    Frames of a stream behind the answer are cut off. MediaError for unreadable media, ValueError where it cannot be shown.
    """
    sample = preparer.sample(conversation, root)
    end_id = preparer.settings.tokenizer.convert_tokens_to_ids(IM_END)
    ends = (sample.labels == end_id).nonzero().flatten().tolist()  # streams have labels too, none of them with this id
    if not ends:
        raise ValueError(f"{conversation.sample_id}: the answer comes after the end of its stream: correct its 'time'")
    end = ends[-1] + 1
    labels = sample.labels[:end].clone()
    before = (labels == IGNORE_INDEX).nonzero().flatten().tolist()
    labels[: before[-1] + 1] = IGNORE_INDEX
    return replace(_first(sample, end), labels=labels)


def prompt_of(sample: Sample) -> Sample:
    """The sample up to its first label: what is shown to the model that is to answer."""
    return _first(sample, int((sample.labels != IGNORE_INDEX).nonzero()[0]))


@torch.inference_mode()
def answer_losses(trained: TrainedModel, samples: Sequence[Sample]) -> list[AnswerLoss]:
    """The loss of each sample's labelled tokens, as a stage computes it."""
    device = next(trained.model.parameters()).device
    output = trained.model(collate(samples, samples[0].patch_size).to(device))
    counts = [sample.num_labels for sample in samples]
    logits, targets = output.logits.split(counts), output.targets.split(counts)
    return [
        AnswerLoss(float(token_loss_sum(own, wanted)), count)
        for own, wanted, count in zip(logits, targets, counts, strict=True)
    ]


def _first(sample: Sample, num_tokens: int) -> Sample:
    """The first tokens of a sample, with the media, or the frames of a stream, that they show."""
    left = int(sample.is_placeholder[:num_tokens].sum())
    visuals: list[VisualItem] = []
    for item in sample.visuals:
        if left == 0:
            break
        shown = min(left, item.num_visual_tokens(sample.patch_size))
        visuals.append(_first_runs(item, shown // item.tokens_per_run(sample.patch_size)))
        left -= shown
    return replace(
        sample,
        input_ids=sample.input_ids[:num_tokens],
        labels=sample.labels[:num_tokens],
        is_placeholder=sample.is_placeholder[:num_tokens],
        visuals=tuple(visuals),
    )


def _first_runs(item: VisualItem, num_runs: int) -> VisualItem:
    if num_runs == item.num_runs:
        return item
    frames = Frames(item.frames.pixels[:num_runs], item.frames.pts_seconds[:num_runs])
    return replace(item, frames=frames)  # of a stream, which is shown frame by frame
