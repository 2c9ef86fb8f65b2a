"""Training stages, found by the name that a recipe gives as `kind`. Imports lightning at the first `find_stage` alone."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from lightning_apollo.stages.config import PackingConfig, StageConfig
from lightning_apollo.stages.kinds import STAGES, StageKind

if TYPE_CHECKING:
    from lightning_apollo.stages.base import Stage

__all__ = ["STAGES", "PackingConfig", "StageConfig", "StageKind", "check_stage", "find_stage"]


def check_stage(config: StageConfig) -> None:
    """Raise ValueError where there is no such stage, or it trains other components in the paper."""
    _find_kind(config.kind).check(config.kind, config)


def find_stage(kind: str) -> type[Stage]:
    """The LightningModule called `kind`; ValueError where there is none."""
    return getattr(import_module(f"{__name__}.{_find_kind(kind).module}"), kind)


def _find_kind(name: str) -> StageKind:
    if name not in STAGES:
        close = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(STAGES)}"
        raise ValueError(f"no stage is called {name}; {hint}")
    return STAGES[name]
