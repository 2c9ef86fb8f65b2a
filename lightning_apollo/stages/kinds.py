"""Kinds of stages: the components that each stage of the papers trains.

Imports neither torch nor lightning, so that a recipe is checked before either is loaded. The LightningModules are in
videollama3.py and apollo.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_apollo.stages.config import StageConfig


@dataclass(frozen=True)
class StageKind:
    """Components that a stage of this kind trains."""

    module: str = "base"  # of stages/, with the LightningModule of the kind's name
    trains: tuple[str, ...] | None = None  # None: whatever the config names
    may_train: tuple[str, ...] = ()  # what the config may add to it

    def check(self, name: str, config: StageConfig) -> None:
        """Raise ValueError where the config trains other components than the stage `name` of the paper does."""
        if self.trains is None:
            return
        extra = set(config.trains) - set(self.trains)
        if set(self.trains) - set(config.trains) or extra - set(self.may_train):
            option = f" (and {', '.join(self.may_train)} where the recipe wants it)" if self.may_train else ""
            raise ValueError(
                f"{name} trains {', '.join(self.trains)}{option}, not {', '.join(config.trains)}; "
                "kind: Stage trains whatever `trains` names"
            )


STAGES: dict[str, StageKind] = {
    "Stage": StageKind(),
    "VisionEncoderAdaptation": StageKind("videollama3", ("vision", "connector")),
    "VisionLanguageAlignment": StageKind("videollama3", ("vision", "connector", "llm")),
    "MultiTaskFineTuning": StageKind("videollama3", ("vision", "connector", "llm")),
    "VideoCentricFineTuning": StageKind("videollama3", ("vision", "connector", "llm")),
    "ConnectorAlignment": StageKind("apollo", ("connector",)),
    "VisionPretraining": StageKind("apollo", ("vision", "connector")),
    "InstructionTuning": StageKind("apollo", ("connector", "llm"), may_train=("vision",)),
}
