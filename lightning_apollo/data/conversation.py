"""Conversations, and the error of a row that holds none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_apollo.errors import UserError
from lightning_apollo.structures import Modality

Role = Literal["system", "user", "assistant", "stream"]


class RowError(UserError, ValueError):
    """Error of a row and its fix, in one line; the manifest adds the file and the place."""


@dataclass(frozen=True)
class TextPart:
    """Text exactly as the model sees it."""

    text: str


@dataclass(frozen=True)
class MediaPart:
    """An image or video file, or a part of a video between two seconds of a player's clock."""

    modality: Modality
    path: str  # as annotated: relative to the data root, or absolute inside a folder that is allowed
    begin_seconds: float | None = None  # from the start of the video as a player shows it; None: from the first frame
    end_seconds: float | None = None  # None: to the last
    fps: float | None = None  # frames a second that are shown; None: as the recipe samples
    max_frames: int | None = None  # that are shown at most; None: as the recipe samples
    frame_paths: tuple[str, ...] = ()  # pictures that are the frames of this video; `path` is the first of them
    frames_fps: float | None = None  # rate of these pictures; None: `path` is a file of its own

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that are opened for it."""
        return self.frame_paths or (self.path,)


@dataclass(frozen=True)
class Message:
    """One turn. A `stream` turn holds one video, whose frames are dealt out by time among the turns that follow."""

    role: Role
    parts: tuple[TextPart | MediaPart, ...]
    time: float | None = None  # seconds on the clock of the stream; None outside streams
    is_learnt: bool = True  # off: an answer that is shown and carries no label


@dataclass(frozen=True)
class Conversation:
    """The turns of a row, in order."""

    sample_id: str  # file and row: "llava.jsonl:17"
    source: str  # name of the source in the recipe
    messages: tuple[Message, ...]
    ignored_keys: tuple[str, ...] = ()  # of the row, which a recipe with data.unknown_keys=ignore passes over

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """Images and videos in the order in which the text shows them."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, MediaPart))
