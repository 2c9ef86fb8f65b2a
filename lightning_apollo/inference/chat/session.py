"""Chat session of several turns with a trained model: history, media and speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lightning_apollo.data.conversation import Conversation, Message, TextPart
from lightning_apollo.errors import UserError
from lightning_apollo.inference.answer import question
from lightning_apollo.inference.chat.uploads import probe_upload
from lightning_apollo.inference.generate import GREEDY, DrawConfig, stream_tokens
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.pages.report import PaintedFrame, paint_frames
from lightning_apollo.structures import MediaError, Sample, VisualBatch


class ChatError(UserError):
    """Error of a question that cannot be answered: one line for whoever asked it, without a path of this machine."""


@dataclass(frozen=True)
class Seen:
    """Media and tokens that the model saw for one answer."""

    frames: tuple[PaintedFrame, ...]  # of all media of the conversation
    num_text_tokens: int
    num_visual_tokens: int  # before reduction
    num_kept_tokens: int
    token_budget: int  # that all media share, before reduction


@dataclass(frozen=True)
class ChatReply:
    """An answer as far as it is written."""

    text: str
    num_tokens: int
    first_token_seconds: float  # from the question, its media still files, to the first token
    seconds: float  # from the question to now, as its reader has it; without the drawing of what was seen
    seen: Seen
    is_cut: bool = False  # the limit of tokens ended it, not the model

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None before the second."""
        return (self.num_tokens - 1) / (self.seconds - self.first_token_seconds) if self.num_tokens > 1 else None


@dataclass(frozen=True)
class Chat:
    """The turns so far: a question, its answer, and so on. Only a question that was answered becomes one."""

    messages: tuple[Message, ...] = ()

    def answered(self, asked: Message, answer: str) -> Chat:
        return Chat((*self.messages, asked, Message("assistant", (TextPart(answer),))))


def read_question(trained: TrainedModel, text: str, files: Sequence[str], uploads: Path) -> Message:
    """The turn that asks `text` about uploaded files, each taken for what it is, a picture or a video.

    ChatError for no text, and for a file that is not below `uploads` or cannot be shown.
    """
    if not text.strip():
        raise ChatError("no question: write what you want to know")
    try:
        infos = [probe_upload(file, uploads, trained.preparer.reader) for file in files]
        videos, images = ([info.path for info in infos if info.modality == kind] for kind in ("video", "image"))
        (message,) = question(text, videos, images).messages
    except (MediaError, ValueError) as error:
        raise ChatError(_without_folders(str(error), files)) from error
    return message


def stream_reply(
    trained: TrainedModel, chat: Chat, asked: Message, max_new_tokens: int = 256, draw: DrawConfig = GREEDY
) -> Iterator[ChatReply]:
    """Yield the answer as it grows, after each token and at least once. ChatError where it cannot be asked."""
    begin = time.perf_counter()
    prompt = _prompt(trained, Conversation("the chat", "asked", (*chat.messages, asked)))
    ids: list[int] = []
    reply: ChatReply | None = None
    drawing_seconds = 0.0
    for tokens in stream_tokens(trained.model, [prompt], trained.end_id, max_new_tokens, draw):
        ids.append(tokens[0])
        seconds = time.perf_counter() - begin - drawing_seconds
        text = str(trained.tokenizer.decode(ids, skip_special_tokens=True)).strip().rstrip("\ufffd")
        if reply is None:
            reply = ChatReply(text, 1, seconds, seconds, _seen(trained, prompt), is_cut=max_new_tokens == 1)
            drawing_seconds = time.perf_counter() - begin - seconds
        else:
            is_cut = len(ids) == max_new_tokens
            reply = replace(reply, text=text, num_tokens=len(ids), seconds=seconds, is_cut=is_cut)
        yield reply
    if reply is None:  # the model ends before it begins
        seconds = time.perf_counter() - begin
        yield ChatReply("", 0, seconds, seconds, _seen(trained, prompt))


def _prompt(trained: TrainedModel, conversation: Conversation) -> Sample:
    try:
        prompt = trained.preparer.prompt(conversation, Path())
    except (MediaError, ValueError) as error:
        raise ChatError(_without_folders(str(error), [part.path for part in conversation.media])) from error
    num_tokens, limit = prompt.input_ids.numel(), trained.preparer.settings.budget.max_length
    if num_tokens > limit:
        raise ChatError(f"the conversation has grown to {num_tokens} tokens, the limit is {limit}: clear it")
    return prompt


@torch.inference_mode()
def _seen(trained: TrainedModel, prompt: Sample) -> Seen:
    """The media are encoded once more: what a reducer drops may depend on their features."""
    visual = VisualBatch.from_items(prompt.visuals, prompt.patch_size)
    _, reduction = trained.model.encode(visual.to(next(trained.model.parameters()).device))
    return Seen(
        frames=tuple(paint_frames(prompt, reduction.keep_mask)),
        num_text_tokens=prompt.input_ids.numel() - visual.num_visual_tokens,
        num_visual_tokens=visual.num_visual_tokens,
        num_kept_tokens=reduction.num_kept,
        token_budget=trained.preparer.settings.budget.token_budget,
    )


def _without_folders(message: str, files: Sequence[str]) -> str:
    for file in files:
        message = message.replace(file, Path(file).name)
    return message
