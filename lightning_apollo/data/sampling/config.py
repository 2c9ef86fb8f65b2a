"""Configuration of the moments of a video that are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_apollo.structures import ClipShape

_CHOICES = {
    "placement": ("paper", "released"),
    "phase": ("start", "end"),
    "repeats": ("drop", "keep"),
    "clock": ("from_start", "container"),
}


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults: VideoLLaMA 3, one frame a second and at most 180 of them; for clips, Apollo's Table 7 and C.1."""

    kind: str = "fps"  # "fps": one frame every 1/fps seconds · "uniform": max_frames over the whole video · "clips"
    fps: float = 1.0  # frames a second of playing time, for kind "fps", and of a clip, for kind "clips"
    max_frames: int = 180  # frames of one video, at most, for kinds "fps" and "uniform"
    phase: str = "start"  # of kind "fps". "start": the frame that plays at k/fps · "end": the last one before (k+1)/fps
    repeats: str = (
        "drop"  # a frame that plays at several moments. "drop": shown once · "keep": once for each, not clips
    )
    clock: str = "from_start"  # of the times in the prompt. "from_start": a player's · "container": the file's own
    clip_frames: int = 4  # frames of one clip, for models that take clips
    max_clips: int = 200  # clips of one video, at most, for kind "clips"; a stage's max_clips comes before it
    placement: str = "paper"  # of clips. "paper": from end to end · "released": what a share of the context holds
    context_tokens: int = 16384  # of the language model, for placement "released"

    def __post_init__(self) -> None:
        if self.kind not in ("fps", "uniform", "clips"):
            raise ValueError(f'sampling kind is "{self.kind}": choose "fps" or "uniform", or "clips"')
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f'sampling {name} is "{getattr(self, name)}": choose "{choices[0]}" or "{choices[1]}"')
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"sampling fps is {self.fps}: give frames per second above 0")
        if self.max_frames < 1:
            raise ValueError(f"sampling max_frames is {self.max_frames}: at least one frame is needed")
        if min(self.clip_frames, self.max_clips, self.context_tokens) < 1:
            raise ValueError("sampling clip_frames, max_clips and context_tokens are at least 1")

    def check_clip(self, clip: ClipShape | None) -> None:
        """Raise ValueError where a model of these clips, or of frames (None), cannot be shown what this samples."""
        if clip is None and self.kind == "clips":
            raise ValueError('data.sampling.kind is "clips", but the model takes frames: choose "fps" or "uniform"')
        if clip is not None and clip.num_frames != self.clip_frames:
            raise ValueError(
                f"data.sampling.clip_frames is {self.clip_frames}, but the model takes clips of {clip.num_frames} "
                "frames: make them equal"
            )
