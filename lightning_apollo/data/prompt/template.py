"""The prompt text as pieces that know what is special and what is learnt: VideoLLaMA 3's released template.

system   <|im_start|>system\\nS<|im_end|>\\n
images   <|im_start|>user\\n<image>\\n<image>\\nQ<|im_end|>\\n
video    <|im_start|>user\\nTime 0.0s:<image>,Time 1.0s:<image>\\nQ<|im_end|>\\n
answer   <|im_start|>assistant\\nA<|im_end|>\\n        labelled: A and <|im_end|>
stream   <|stream_start|>stream\\nTime 1.0s: <image>\\nTime 2.0s: <image>\\n<|stream_end|>\\n
                                                     labelled: what `_stream_turn` says

<image> stands here for a whole run of placeholders, one for each visual token of the image or frame. For encoders of
clips a run is that of a clip, and what stands between the runs of a video is in clip_text.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, Role
from lightning_apollo.data.prompt.clip_text import run_texts
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.structures import VisualItem

PLACEHOLDER = "<image>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
STREAM_START, STREAM_END = "<|stream_start|>", "<|stream_end|>"
VID_START, VID_END = "<|vid_start|>", "<|vid_end|>"


@dataclass(frozen=True)
class Piece:
    """Plain text, one special token, or a run of placeholders."""

    text: str
    is_special: bool = False
    is_labelled: bool = False
    repeat: int = 1

    @property
    def is_placeholder(self) -> bool:
        return self.is_special and self.text == PLACEHOLDER


@dataclass(frozen=True)
class Turn:
    """One turn of the text."""

    role: Role
    pieces: tuple[Piece, ...]
    is_learnt: bool = True  # off: its labels are left out; its ids are those of a turn that is learnt


ANSWER_HEADER = Turn("assistant", (Piece(IM_START, is_special=True), Piece("assistant\n")))


def lay_out(
    conversation: Conversation,
    visuals_per_part: Sequence[VisualItem | None],
    patch_size: int,
    system_prompt: str,
    clip_text: ClipTextConfig,
) -> Iterator[Turn]:
    """The turns in the order of the text; frames of a stream come before the first turn that is not earlier than they.

    `visuals_per_part` has one entry for each of `conversation.media`; None leaves that part out. `clip_text` is for
    items in clips alone.
    """
    media = conversation.media
    if len(visuals_per_part) != len(media):
        raise ValueError(f"{conversation.sample_id}: {len(visuals_per_part)} visuals for {len(media)} media parts")
    visuals = iter(visuals_per_part)
    if system_prompt and all(message.role != "system" for message in conversation.messages):
        yield _chat_turn("system", [Piece(system_prompt)])
    stream: VisualItem | None = None
    num_shown = 0
    for message in conversation.messages:
        if message.role == "stream":
            if len(media) != 1:
                raise ValueError(f"{conversation.sample_id}: a stream beside {len(media) - 1} other media")
            stream = next(visuals)
            continue
        if stream is not None and message.time is not None:
            num_due = int((stream.frames.pts_seconds - stream.zero_seconds <= message.time).sum())
            yield from _stream_turns(stream, range(num_shown, num_due), patch_size, is_followed=True)
            num_shown = max(num_shown, num_due)
        yield _chat_turn(message.role, _content(message, visuals, patch_size, clip_text), message.is_learnt)
    if stream is not None:
        yield from _stream_turns(stream, range(num_shown, len(stream.frames)), patch_size, is_followed=False)


def _chat_turn(role: Role, content: Iterable[Piece], is_learnt: bool = True) -> Turn:
    is_answer = role == "assistant"
    opening = (Piece(IM_START, is_special=True), Piece(f"{role}\n"))
    closing = (Piece(IM_END, is_special=True, is_labelled=is_answer), Piece("\n"))
    return Turn(role, (*opening, *content, *closing), is_learnt)


def _content(
    message: Message, visuals: Iterator[VisualItem | None], patch_size: int, clip_text: ClipTextConfig
) -> Iterator[Piece]:
    for part in message.parts:
        if not isinstance(part, MediaPart):
            yield Piece(part.text, is_labelled=message.role == "assistant")
        elif (item := next(visuals)) is not None:
            yield from media_pieces(item, patch_size, clip_text)


def media_pieces(item: VisualItem, patch_size: int, clip_text: ClipTextConfig) -> Iterator[Piece]:
    """Text of an image or video in a turn of the user: runs of placeholders and the text around them."""
    return _frames(item, patch_size) if item.clip is None else _clips(item, patch_size, clip_text)


def _frames(item: VisualItem, patch_size: int) -> Iterator[Piece]:
    run = _run(item, patch_size)
    for position, seconds in enumerate(item.frames.pts_seconds.tolist()):
        if item.modality == "video":
            yield Piece(f"{',' if position else ''}Time {seconds:z.1f}s:")
        yield run
    yield Piece("\n")


def _clips(item: VisualItem, patch_size: int, config: ClipTextConfig) -> Iterator[Piece]:
    for text in run_texts(item, config):
        if text:
            yield Piece(text)
        if config.has_bounds:
            yield Piece(VID_START, is_special=True)
        yield _run(item, patch_size)
        if config.has_bounds:
            yield Piece(VID_END, is_special=True)
    yield Piece(config.closing)


def _stream_turns(item: VisualItem, positions: range, patch_size: int, is_followed: bool) -> Iterator[Turn]:
    """These frames of a stream as one turn, or as many."""
    if item.has_frame_turns:
        for position in positions:
            one = range(position, position + 1)
            yield _stream_turn(item, one, patch_size, is_followed or position != positions[-1])
    elif positions:
        yield _stream_turn(item, positions, patch_size, is_followed)


def _stream_turn(item: VisualItem, positions: range, patch_size: int, is_followed: bool) -> Turn:
    """Frames of a stream, one to a line, with labels on what the model itself decides while it watches.

    After each frame it learns the newline, and after the newline what really follows: the next stamp (stay silent) or
    <|stream_end|> (let a turn begin; without a label where the sample ends and no turn does). In turns of one frame, as
    the released code has them, these are the newline and <|stream_end|> alone: a model of it never sees that staying
    silent is a choice.
    """
    pieces = [Piece(STREAM_START, is_special=True), Piece("stream\n")]
    for position in positions:
        if item.modality == "video":
            pieces.append(Piece("Time", is_labelled=position > positions.start))
            pieces.append(Piece(f" {item.frames.pts_seconds[position].item():z.1f}s: "))
        pieces += [_run(item, patch_size), Piece("\n", is_labelled=True)]
    pieces += [Piece(STREAM_END, is_special=True, is_labelled=is_followed), Piece("\n")]
    return Turn("stream", tuple(pieces))


def _run(item: VisualItem, patch_size: int) -> Piece:
    return Piece(PLACEHOLDER, is_special=True, repeat=item.tokens_per_run(patch_size))
