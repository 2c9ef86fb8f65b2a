"""Training stages, found by the name that a recipe gives as `kind`."""

from __future__ import annotations

import difflib

from lightning_apollo.stages.apollo import ConnectorAlignment, InstructionTuning, VisionPretraining
from lightning_apollo.stages.base import Stage
from lightning_apollo.stages.config import PackingConfig, StageConfig
from lightning_apollo.stages.videollama3 import (
    MultiTaskFineTuning,
    VideoCentricFineTuning,
    VisionEncoderAdaptation,
    VisionLanguageAlignment,
)

STAGES: dict[str, type[Stage]] = {
    stage.__name__: stage
    for stage in (
        Stage,
        VisionEncoderAdaptation,
        VisionLanguageAlignment,
        MultiTaskFineTuning,
        VideoCentricFineTuning,
        ConnectorAlignment,
        VisionPretraining,
        InstructionTuning,
    )
}

__all__ = ["STAGES", "PackingConfig", "Stage", "StageConfig", "find_stage"]


def find_stage(kind: str) -> type[Stage]:
    """The stage class called `kind`."""
    if kind not in STAGES:
        close = difflib.get_close_matches(kind, STAGES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(STAGES)}"
        raise ValueError(f"no stage is called {kind}; {hint}")
    return STAGES[kind]
