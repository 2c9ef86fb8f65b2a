"""Configuration of the text between clips."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipTextConfig:
    """Defaults: the format that the paper chose (C.1)."""

    between: str = "timestamps"  # none | start_end (special tokens) | timestamps | both
    times: str = "paper"  # paper: MM:SS · released: the sentences of Apollo's inference code, in tenths of a second

    def __post_init__(self) -> None:
        for name, choices in (
            ("between", ("none", "start_end", "timestamps", "both")),
            ("times", ("paper", "released")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f'clip_text.{name} is "{getattr(self, name)}": choose {", ".join(choices)}')

    @property
    def has_bounds(self) -> bool:
        """True if special tokens stand around every run."""
        return self.between in ("start_end", "both")

    @property
    def has_stamps(self) -> bool:
        return self.between in ("timestamps", "both")

    @property
    def closing(self) -> str:
        """The text between an item and what follows it."""
        return "\n\n" if self.times == "released" else "\n"
