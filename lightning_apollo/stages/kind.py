"""Kinds of stages: what a stage of a paper trains. Imports neither torch nor lightning."""

from __future__ import annotations

from typing import ClassVar

from lightning_apollo.stages.config import StageConfig


class StageKind:
    """Components that a stage of this kind trains. This one leaves them to the config."""

    trains: ClassVar[tuple[str, ...] | None] = None  # None: whatever the config names
    may_train: ClassVar[tuple[str, ...]] = ()  # what the config may add to it

    @classmethod
    def check(cls, config: StageConfig) -> None:
        """Raises ValueError where the config trains other components than this stage of the paper does."""
        if cls.trains is None:
            return
        extra = set(config.trains) - set(cls.trains)
        if set(cls.trains) - set(config.trains) or extra - set(cls.may_train):
            option = f" (and {', '.join(cls.may_train)} where the recipe wants it)" if cls.may_train else ""
            raise ValueError(
                f"{cls.__name__} trains {', '.join(cls.trains)}{option}, not {', '.join(config.trains)}; "
                "kind: Stage trains whatever `trains` names"
            )
