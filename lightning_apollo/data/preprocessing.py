"""Preprocessing: the settings that decide which sample a conversation becomes, the same in training and in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.media.config import PictureConfig
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.prompt.encode import ChatTokenizer, count_tokens, render_conversation, render_prompt
from lightning_apollo.data.prompt.template import lay_out
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.structures import ClipShape, Sample, VisualItem


@dataclass(frozen=True)
class Preprocessing:
    """A tokenizer, and how media are sampled, resized and laid out in the prompt. `runs/build.py` makes it of a recipe."""

    tokenizer: ChatTokenizer
    patch_size: int  # pixels
    image_merge_size: int  # side of the square of patches that becomes one visual token
    video_merge_size: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    system_prompt: str = ""  # opens conversations that bring none
    clip: ClipShape | None = None  # what the encoder makes of clips; None: it takes frames one by one
    clip_text: ClipTextConfig = field(default_factory=ClipTextConfig)  # between clips
    picture: PictureConfig = field(default_factory=PictureConfig)
    stream_max_frames: int = 400
    streams: str = "ours"  # ours | released, as in DataConfig

    def __post_init__(self) -> None:
        self.sampling.check_clip(self.clip)

    def merge_size(self, modality: str) -> int:
        """Side of the square of patches that becomes one visual token; 1 where the encoder takes clips."""
        if self.clip is not None:
            return 1
        return self.image_merge_size if modality == "image" else self.video_merge_size

    def render(
        self, conversation: Conversation, visuals: Sequence[VisualItem | None], max_length: int | None = None
    ) -> Sample:
        """The conversation as a training sample, see `encode.render_conversation`."""
        return render_conversation(
            conversation, visuals, self.tokenizer, self.patch_size, self.system_prompt, max_length, self.clip_text
        )

    def count_tokens(self, conversation: Conversation, visuals: Sequence[VisualItem | None]) -> int:
        """Length of the sample that `render` would make without a limit."""
        turns = lay_out(conversation, visuals, self.patch_size, self.system_prompt, self.clip_text)
        return count_tokens(turns, self.tokenizer)

    def render_prompt(self, conversation: Conversation, visuals: Sequence[VisualItem | None]) -> Sample:
        """The conversation as a sample that asks for its last answer, see `encode.render_prompt`."""
        return render_prompt(conversation, visuals, self.tokenizer, self.patch_size, self.system_prompt, self.clip_text)
