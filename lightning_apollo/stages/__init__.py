"""Kinds of training stages, found by the name that a recipe gives as `kind`. Imports neither torch nor lightning."""

from __future__ import annotations

import difflib

from lightning_apollo.stages.apollo import ConnectorAlignment, InstructionTuning, VisionPretraining
from lightning_apollo.stages.config import PackingConfig, StageConfig
from lightning_apollo.stages.kind import StageKind
from lightning_apollo.stages.videollama3 import (
    MultiTaskFineTuning,
    VideoCentricFineTuning,
    VisionEncoderAdaptation,
    VisionLanguageAlignment,
)

KINDS: dict[str, type[StageKind]] = {
    "Stage": StageKind,
    **{
        kind.__name__: kind
        for kind in (
            VisionEncoderAdaptation,
            VisionLanguageAlignment,
            MultiTaskFineTuning,
            VideoCentricFineTuning,
            ConnectorAlignment,
            VisionPretraining,
            InstructionTuning,
        )
    },
}

__all__ = ["KINDS", "PackingConfig", "StageConfig", "StageKind", "find_kind"]


def find_kind(name: str) -> type[StageKind]:
    """The kind of that name; ValueError where there is none."""
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KINDS)}"
        raise ValueError(f"no stage is called {name}; {hint}")
    return KINDS[name]
